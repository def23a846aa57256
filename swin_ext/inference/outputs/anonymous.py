"""A DICOM object without what names a patient, a place or the day of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydicom

# Type 2 of the patient and the study (PS3.3, C.7.1.1 and C.7.2.1): must be there, may be empty.
MAY_BE_EMPTY = (
    'PatientName',
    'PatientID',
    'PatientBirthDate',
    'PatientSex',
    'AccessionNumber',
    'StudyID',
    'StudyDate',
    'StudyTime',
    'ReferringPhysicianName',
)
# Of the patient and of the visit.
IDENTIFYING_GROUPS = (0x0010, 0x0032, 0x0038)
IDENTIFYING = (
    'StudyDescription',
    'PhysiciansOfRecord',
    'PhysiciansOfRecordIdentificationSequence',
    'NameOfPhysiciansReadingStudy',
    'PhysiciansReadingStudyIdentificationSequence',
    'ReferringPhysicianIdentificationSequence',
    'ReferencedStudySequence',
    'ReferencedPatientSequence',
    'IssuerOfAccessionNumberSequence',
    'ProcedureCodeSequence',
    'RequestingService',
    'AdmittingDiagnosesDescription',
    'AdmittingDiagnosesCodeSequence',
    'ReasonForPerformedProcedureCodeSequence',
    'InstitutionName',
    'InstitutionAddress',
    'InstitutionalDepartmentName',
    'StationName',
    'OperatorsName',
    'ContributingEquipmentSequence',
)


def remove_patient(dataset: pydicom.Dataset, patient_id: str) -> None:
    """Empty or remove it in place; UIDs stay, as viewers place an object by them.

    Args:
        patient_id: Takes the place of the patient's.
    """
    for element in list(dataset):
        if element.keyword in MAY_BE_EMPTY:
            setattr(dataset, element.keyword, None)
        elif element.tag.group in IDENTIFYING_GROUPS or element.keyword in IDENTIFYING:
            del dataset[element.tag]
    dataset.PatientID = patient_id
    dataset.PatientIdentityRemoved = 'YES'
    dataset.DeidentificationMethod = 'swin_ext --anonymous'
