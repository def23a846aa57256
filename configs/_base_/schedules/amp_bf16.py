# Mixed precision in bfloat16, on CUDA (Ampere or later) and on CPUs. Use it by
#   optim_wrapper = dict(**_base_.amp_bf16)
amp_bf16 = dict(type='AutocastOptimWrapper', dtype='bfloat16')
