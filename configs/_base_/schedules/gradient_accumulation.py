# An update every 4 iterations, from the mean of their gradients: batches of 4 times the size in the
# memory of one. max_epochs stays; there are a quarter of the updates. Use it by
#   optim_wrapper = dict(**_base_.gradient_accumulation)
gradient_accumulation = dict(accumulative_counts=4)
