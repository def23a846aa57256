from importlib import metadata
from pathlib import Path
from sysconfig import get_path

from setuptools import Distribution, find_packages, setup

# Not a standard-library import: setuptools puts its own distutils in this place.
from distutils.command.install_data import install_data  # isort: skip

ROOT = Path(__file__).resolve().parent


def read_requirements(name):
    lines = (ROOT / 'requirements' / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(('#', '-'))]


def mmcv_requirement():
    """A compiled mmcv that is already in this environment is kept; otherwise take mmcv-lite.

    Both install into the same folder, so asking for mmcv-lite unconditionally would overwrite a
    compiled mmcv.
    """
    site_packages = [get_path('purelib'), get_path('platlib')]
    names = {dist.metadata['Name'] for dist in metadata.distributions(path=site_packages)}
    (lite,) = read_requirements('mminstall.txt')
    return [lite.replace('mmcv-lite', 'mmcv')] if 'mmcv' in names else [lite]


class InstallIntoSitePackages(install_data):
    """Place `data_files` relative to site-packages instead of sys.prefix.

    Normal and editable wheels both copy `data_files`, so this brings mmcv/_ext.py into either,
    and pip records and removes it.

    MIM looks for configs, tools and the index of models in site-packages/swin_ext/.mim, which an
    editable install does not have. It gets files there that lead to those of the checkout; Python
    still imports the checkout's swin_ext, for a folder without `__init__.py` comes after any
    package with one.
    """

    LEAD_TO = {
        'configs': '_base_ = [{path!r}]\n',
        'tools': "import runpy\n\nrunpy.run_path({path!r}, run_name='__main__')\n",
    }

    def run(self):
        super().run()
        if self.distribution.get_command_obj('editable_wheel', create=False):
            for folder, text in self.LEAD_TO.items():
                for path in (ROOT / folder).rglob('*.py'):
                    self._place(path.relative_to(ROOT), text.format(path=str(path)))
            metafiles = str(ROOT / 'configs' / '*' / 'metafile.yml')
            self._place(Path('model-index.yml'), f'Import:\n  - {metafiles!r}\n')

    def _place(self, path, text):
        file = Path(self.install_dir, 'swin_ext', '.mim', path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding='utf-8')
        self.outfiles.append(str(file))

    def finalize_options(self):
        super().finalize_options()
        self.install_dir = self.get_finalized_command('install').install_lib


class DistributionWithData(Distribution):
    def has_data(self):
        """The name under which editable wheels ask whether there are `data_files`."""
        return self.has_data_files()


version = {}
exec((ROOT / 'swin_ext' / 'version.py').read_text(), version)

setup(
    name='swin_ext',
    version=version['__version__'],
    description='Swin Mask R-CNN for cardiac MR on OpenMMLab: backbone, data set, hooks, metrics',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9',
    distclass=DistributionWithData,
    # Said explicitly, it lets an editable install add a path instead of an import hook, which
    # would cost time in each start of Python.
    package_dir={'': '.'},
    packages=find_packages(include=['swin_ext', 'swin_ext.*']),
    # .mim has links to configs, tools and model-index.yml, for which MIM looks there.
    package_data={
        'swin_ext': [
            '.mim/**/*',
            'py.typed',
            'inference/box/*.safetensors',
            'inference/report/page.html',
        ]
    },
    data_files=[('mmcv', ['swin_ext/mmcv_ext/_ext.py'])],
    cmdclass={'install_data': InstallIntoSitePackages},
    install_requires=read_requirements('runtime.txt') + mmcv_requirement(),
    extras_require={
        'dicom': read_requirements('dicom.txt'),
        'seg': read_requirements('seg.txt'),
        'tests': [
            *read_requirements('dicom.txt'),
            *read_requirements('seg.txt'),
            *read_requirements('tests.txt'),
        ],
        'fiftyone': ['fiftyone'],
        'mim': mmcv_requirement(),
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Healthcare Industry',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(9, 14)),
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Topic :: Scientific/Engineering :: Medical Science Apps.',
        'Typing :: Typed',
    ],
    keywords='cardiac MR, CMR, instance segmentation, Swin Transformer, Mask R-CNN, OpenMMLab',
    zip_safe=False,
)
