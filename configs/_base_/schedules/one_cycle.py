# Warm-up over the first tenth of the run, then cosine decay. Use it by
#   param_scheduler = _base_.one_cycle
one_cycle = [dict(type='GroupOneCycleLR', pct_start=0.1, by_epoch=True, convert_to_iter_based=True)]
