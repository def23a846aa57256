"""MONAI's DynUNet, of nnU-Net's shape with deep supervision, 2.1 M parameters, from scratch."""

_base_ = ['unet_monai-basic_cmr.py']

model = dict(
    network='DynUNet',
    network_args=dict(
        _delete_=True,
        kernel_size=[3, 3, 3, 3, 3, 3],
        strides=[1, 2, 2, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2, 2, 2],
        filters=[16, 32, 64, 128, 128, 128],
        deep_supervision=True,
        deep_supr_num=2,
    ),
)
