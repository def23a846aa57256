# Mixed precision in float16 with loss scaling; float32 where there is no CUDA device. Use it by
#   optim_wrapper = dict(**_base_.amp_fp16)
amp_fp16 = dict(type='AutocastOptimWrapper')  # float16 is its default
