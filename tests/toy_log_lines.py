"""Lines as MMEngine's LocalVisBackend writes them."""


def train_line(step, **changes):
    parts = dict(loss_rpn_cls=0.1, loss_rpn_bbox=0.2, loss_cls=0.4, loss_bbox=0.8, loss_mask=1.6)
    return dict(dict(parts, loss=3.1, lr=step * 1e-3, iter=step, epoch=1, step=step), **changes)


def val_line(step, bbox=0.5, segm=0.4):
    return {
        'coco/bbox_mAP': bbox,
        'coco/bbox_mAP_50': 2 * bbox,
        'coco/segm_mAP': segm,
        'coco/segm_mAP_50': 2 * segm,
        'step': step,
    }
