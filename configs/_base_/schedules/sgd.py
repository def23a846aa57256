# SGD as for Mask R-CNN (lr 0.02 for batches of 16; here for 4). Use it by
#   optim_wrapper = dict(optimizer=dict(_delete_=True, **_base_.sgd))
sgd = dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=1e-4)
