"""Convert Swin weights of any origin into a state dict for SwinBackbone.

    python tools/convert_swin_weights.py swin_small.safetensors checkpoints/swin_small.pth

The source may come from mmdet, Microsoft, timm, torchvision, Hugging Face or Mask2Former, as a
backbone, a classifier or a detector, of V1 or V2. Train from the result with

    --cfg-options model.backbone.init_cfg.type=Pretrained \\
        model.backbone.init_cfg.checkpoint=checkpoints/swin_small.pth

With --whole the heads come along, under the names of mmdet's or mmsegmentation's model: those of a
Mask R-CNN of torchvision, a Mask2Former of its authors, or any model of OpenMMLab.
"""

import os

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # no mmdet is needed
    from swin_ext.models.weights.command import main

    main()
