"""Module names of each family of Swin weights, and those of `SwinBackbone` for them."""

from __future__ import annotations

import re

_BLOCK = 'stages.{i}.blocks.{j}'

# Module names of each format and ours; what follows them (`.weight`) is kept. Numbers to fill in:
# {i}, {j} as matched, {before} = i - 1, {stage} = (i - 1) // 2. 'final_norm' is a classifier's
# norm of the last stage.
_MODULES = {
    'mmdet': {
        'patch_embed': 'patch_embed',
        'absolute_pos_embed': 'absolute_pos_embed',
        'stages.{i}': 'stages.{i}',
        'norm{i}': 'norm{i}',
        'norm': 'final_norm',
    },
    'microsoft': {
        'patch_embed.proj': 'patch_embed.projection',
        'patch_embed.norm': 'patch_embed.norm',
        'absolute_pos_embed': 'absolute_pos_embed',
        'layers.{i}.blocks.{j}.norm1': f'{_BLOCK}.norm1',
        'layers.{i}.blocks.{j}.attn': f'{_BLOCK}.attn.w_msa',
        'layers.{i}.blocks.{j}.norm2': f'{_BLOCK}.norm2',
        'layers.{i}.blocks.{j}.mlp.fc1': f'{_BLOCK}.ffn.layers.0.0',
        'layers.{i}.blocks.{j}.mlp.fc2': f'{_BLOCK}.ffn.layers.1',
        'layers.{i}.downsample': 'stages.{i}.downsample',
        'norm{i}': 'norm{i}',
        'norm': 'final_norm',
    },
    'torchvision': {
        'features.0.0': 'patch_embed.projection',
        'features.0.2': 'patch_embed.norm',
        'features.{i}.{j}.norm1': 'stages.{stage}.blocks.{j}.norm1',
        'features.{i}.{j}.attn': 'stages.{stage}.blocks.{j}.attn.w_msa',
        'features.{i}.{j}.norm2': 'stages.{stage}.blocks.{j}.norm2',
        'features.{i}.{j}.mlp.0': 'stages.{stage}.blocks.{j}.ffn.layers.0.0',
        'features.{i}.{j}.mlp.3': 'stages.{stage}.blocks.{j}.ffn.layers.1',
        'features.{i}.norm': 'stages.{stage}.downsample.norm',
        'features.{i}.reduction': 'stages.{stage}.downsample.reduction',
        'norm': 'final_norm',
    },
}
_MODULES['timm'] = {**_MODULES['microsoft'], 'layers.{i}.downsample': 'stages.{before}.downsample'}
_MODULES['mmpretrain'] = {
    'stages.{i}.downsample': 'stages.{before}.downsample',
    **_MODULES['mmdet'],
}
_HF_BLOCK = 'encoder.layers.{i}.blocks.{j}'
_MODULES['huggingface'] = {
    'embeddings.patch_embeddings.projection': 'patch_embed.projection',
    'embeddings.norm': 'patch_embed.norm',
    'embeddings.position_embeddings': 'absolute_pos_embed',
    f'{_HF_BLOCK}.layernorm_before': f'{_BLOCK}.norm1',
    f'{_HF_BLOCK}.layernorm_after': f'{_BLOCK}.norm2',
    # files, and transformers 4
    f'{_HF_BLOCK}.attention.self.query': f'{_BLOCK}.attn.w_msa.q',
    f'{_HF_BLOCK}.attention.self.key': f'{_BLOCK}.attn.w_msa.k',
    f'{_HF_BLOCK}.attention.self.value': f'{_BLOCK}.attn.w_msa.v',
    f'{_HF_BLOCK}.attention.self.continuous_position_bias_mlp': f'{_BLOCK}.attn.w_msa.cpb_mlp',
    f'{_HF_BLOCK}.attention.self': f'{_BLOCK}.attn.w_msa',
    f'{_HF_BLOCK}.attention.output.dense': f'{_BLOCK}.attn.w_msa.proj',
    f'{_HF_BLOCK}.intermediate.dense': f'{_BLOCK}.ffn.layers.0.0',
    f'{_HF_BLOCK}.output.dense': f'{_BLOCK}.ffn.layers.1',
    # modules of transformers 5
    f'{_HF_BLOCK}.attention.q_proj': f'{_BLOCK}.attn.w_msa.q',
    f'{_HF_BLOCK}.attention.k_proj': f'{_BLOCK}.attn.w_msa.k',
    f'{_HF_BLOCK}.attention.v_proj': f'{_BLOCK}.attn.w_msa.v',
    f'{_HF_BLOCK}.attention.o_proj': f'{_BLOCK}.attn.w_msa.proj',
    f'{_HF_BLOCK}.attention.relative_position_bias': f'{_BLOCK}.attn.w_msa',
    f'{_HF_BLOCK}.mlp.fc1': f'{_BLOCK}.ffn.layers.0.0',
    f'{_HF_BLOCK}.mlp.fc2': f'{_BLOCK}.ffn.layers.1',
    'encoder.layers.{i}.downsample': 'stages.{i}.downsample',
    'hidden_states_norms.stage{i}': 'norm{before}',
    'layernorm': 'final_norm',
}

# Names that may come out of the tables; q, k and v are merged afterwards.
_PARAMETER = re.compile(
    r'(?:patch_embed\.projection|patch_embed\.norm|norm\d+|final_norm)\.(?:weight|bias)'
    r'|absolute_pos_embed'
    r'|stages\.\d+\.downsample\.(?:norm\.(?:weight|bias)|reduction\.weight)'
    r'|stages\.\d+\.blocks\.\d+\.(?:'
    r'(?:norm1|norm2|attn\.w_msa\.(?:qkv|q|k|v|proj|cpb_mlp\.0|cpb_mlp\.2)'
    r'|ffn\.layers\.0\.0|ffn\.layers\.1)\.(?:weight|bias)'
    r'|attn\.w_msa\.(?:relative_position_bias_table|logit_scale|q_bias|v_bias))'
)


def module_patterns(family: str) -> list[tuple[re.Pattern, str]]:
    patterns = []
    for theirs, ours in _MODULES[family].items():
        pattern = (
            re.escape(theirs).replace(r'\{i\}', r'(?P<i>\d+)').replace(r'\{j\}', r'(?P<j>\d+)')
        )
        patterns.append((re.compile(rf'{pattern}(?P<rest>(?:\..+)?)'), ours))
    return patterns


def rename(name: str, patterns: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, ours in patterns:
        match = pattern.fullmatch(name)
        if match:
            numbers = {k: int(v) for k, v in match.groupdict().items() if k != 'rest'}
            if 'i' in numbers:
                numbers.update(before=numbers['i'] - 1, stage=(numbers['i'] - 1) // 2)
            renamed = ours.format(**numbers) + match['rest']
            return renamed if _PARAMETER.fullmatch(renamed) else None
    return None
