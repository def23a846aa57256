"""The head of Mask2Former as its authors compute it, under their names, for features of 4 scales.

Written after https://github.com/facebookresearch/Mask2Former at 9b0651c
(mask2former/modeling/pixel_decoder/msdeformattn.py and
transformer_decoder/mask2former_transformer_decoder.py, MIT licence), which needs detectron2. Names
and outputs are those of that code, run with stubs for what it takes of detectron2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

HEADS = 4


def position_embedding(x, dim):
    """(1, dim, H, W): sines of y, then of x, whose last values are 2 pi."""
    _, _, height, width = x.shape
    y = (torch.arange(1, height + 1) / (height + 1e-6) * 2 * math.pi).view(-1, 1, 1)
    x = (torch.arange(1, width + 1) / (width + 1e-6) * 2 * math.pi).view(1, -1, 1)
    frequencies = 10000 ** (2 * (torch.arange(dim // 2) // 2) / (dim // 2))
    parts = []
    for place in (y, x):
        angles = place / frequencies
        waves = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)
        parts.append(waves.expand(height, width, -1))
    return torch.cat(parts, -1).permute(2, 0, 1)[None]


class DeformableAttention(nn.Module):
    def __init__(self, dim, levels, points=4):
        super().__init__()
        self.levels, self.points = levels, points
        self.sampling_offsets = nn.Linear(dim, HEADS * levels * points * 2)
        self.attention_weights = nn.Linear(dim, HEADS * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def forward(self, query, places, value, shapes):
        batch, length, dim = query.shape
        per_point = (batch, length, HEADS, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(*per_point, 2)
        weights = self.attention_weights(query).view(batch, length, HEADS, -1)
        weights = weights.softmax(-1).view(per_point)
        maps = self.value_proj(value).view(batch, -1, HEADS, dim // HEADS)
        maps = maps.split([h * w for h, w in shapes], 1)
        total = 0
        for level, (height, width) in enumerate(shapes):
            where = places[:, :, None, None] + offsets[..., level, :, :] / torch.tensor(
                [width, height]
            )
            image = maps[level].permute(0, 2, 3, 1).reshape(batch * HEADS, -1, height, width)
            grid = 2 * where.transpose(1, 2).flatten(0, 1) - 1
            samples = F.grid_sample(image, grid, align_corners=False)
            weight = weights[..., level, :].transpose(1, 2).flatten(0, 1)[:, None]
            total = total + (samples * weight).sum(-1)
        return self.output_proj(total.view(batch, dim, length).transpose(1, 2))


class EncoderLayer(nn.Module):
    def __init__(self, dim, hidden, levels):
        super().__init__()
        self.self_attn = DeformableAttention(dim, levels)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x, position, places, shapes):
        x = self.norm1(x + self.self_attn(x + position, places, x, shapes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Encoder(nn.Module):
    def __init__(self, dim, layers, levels):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(EncoderLayer(dim, 48, levels) for _ in range(layers))
        self.level_embed = nn.Parameter(torch.randn(levels, dim))

    def forward(self, maps):
        shapes = [tuple(x.shape[2:]) for x in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        position, places = [], []
        for m, embedding, (height, width) in zip(maps, self.level_embed, shapes):
            waves = position_embedding(m, m.shape[1]).flatten(2).transpose(1, 2)
            position.append(waves + embedding)
            y, x_ = torch.meshgrid(
                (torch.arange(height) + 0.5) / height,
                (torch.arange(width) + 0.5) / width,
                indexing='ij',
            )
            places.append(torch.stack([x_, y], -1).view(1, -1, 2))
        position, places = torch.cat(position, 1), torch.cat(places, 1)
        for layer in self.encoder.layers:
            x = layer(x, position, places.expand(len(x), -1, -1), shapes)
        parts = x.split([h * w for h, w in shapes], 1)
        return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes)]


class NormedConv(nn.Conv2d):
    def __init__(self, inputs, outputs, size):
        super().__init__(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm = nn.GroupNorm(32, outputs)

    def forward(self, x):
        return self.norm(super().forward(x))


class PixelDecoder(nn.Module):
    """Attention between maps 1 to 3 of `channels`; map 0, of stride 4, is added top-down."""

    def __init__(self, channels, dim, layers):
        super().__init__()
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, dim, 1), nn.GroupNorm(32, dim)) for c in channels[:0:-1]
        )
        self.transformer = Encoder(dim, layers, len(channels) - 1)
        self.mask_features = nn.Conv2d(dim, dim, 1)
        self.adapter_1, self.layer_1 = NormedConv(channels[0], dim, 1), NormedConv(dim, dim, 3)

    def forward(self, maps):
        out = self.transformer([p(m) for p, m in zip(self.input_proj, maps[:0:-1])])
        lateral = self.adapter_1(maps[0])
        up = F.interpolate(out[-1], lateral.shape[2:], mode='bilinear', align_corners=False)
        return self.mask_features(F.relu(self.layer_1(lateral + up))), out


class CrossAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(dim, HEADS)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x, memory, mask, position, query_position):
        attended = self.multihead_attn(
            x + query_position, memory + position, memory, attn_mask=mask
        )[0]
        return self.norm(x + attended)


class SelfAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, HEADS)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x, query_position):
        query = x + query_position
        return self.norm(x + self.self_attn(query, query, x)[0])


class FeedForward(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class Predictor(nn.Module):
    def __init__(self, dim, layers, classes, queries):
        super().__init__()
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttention(dim) for _ in range(layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttention(dim) for _ in range(layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForward(dim, 40) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(dim)
        self.query_feat, self.query_embed = nn.Embedding(queries, dim), nn.Embedding(queries, dim)
        self.level_embed = nn.Embedding(3, dim)
        self.class_embed = nn.Linear(dim, classes + 1)
        self.mask_embed = nn.Module()
        self.mask_embed.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))

    def forward(self, maps, mask_features):
        """Scores (B, queries, classes + 1) and masks (B, queries, H, W) of each layer."""
        batch = len(mask_features)
        position = [position_embedding(m, m.shape[1]).flatten(2).permute(2, 0, 1) for m in maps]
        memory = [
            (m.flatten(2) + e[None, :, None]).permute(2, 0, 1)
            for m, e in zip(maps, self.level_embed.weight)
        ]
        query_position = self.query_embed.weight[:, None].expand(-1, batch, -1)
        x = self.query_feat.weight[:, None].expand(-1, batch, -1)
        outputs = [self.predict(x, mask_features)]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
        )
        for i, (cross, own, feed) in enumerate(layers):
            level = i % 3
            masks = F.interpolate(
                outputs[-1][1], maps[level].shape[2:], mode='bilinear', align_corners=False
            )
            hidden = (masks.sigmoid().flatten(2) < 0.5).repeat_interleave(HEADS, 0)
            hidden &= ~hidden.all(-1, keepdim=True)
            x = cross(x, memory[level], hidden, position[level], query_position)
            x = feed(own(x, query_position))
            outputs.append(self.predict(x, mask_features))
        return outputs

    def predict(self, x, mask_features):
        x = embedding = self.decoder_norm(x).transpose(0, 1)
        for i, layer in enumerate(self.mask_embed.layers):
            embedding = F.relu(layer(embedding)) if i < 2 else layer(embedding)
        return self.class_embed(x), torch.einsum('bqc,bchw->bqhw', embedding, mask_features)


class AuthorsMask2Former(nn.Module):
    def __init__(self, channels=(8, 16, 32, 64), dim=32, layers=(2, 3), classes=3, queries=8):
        super().__init__()
        self.sem_seg_head = nn.Module()
        self.sem_seg_head.pixel_decoder = PixelDecoder(channels, dim, layers[0])
        self.sem_seg_head.predictor = Predictor(dim, layers[1], classes, queries)
        self.criterion = nn.Module()
        self.criterion.register_buffer('empty_weight', torch.tensor([1.0] * classes + [0.1]))

    def forward(self, maps):
        mask_features, scales = self.sem_seg_head.pixel_decoder(maps)
        return self.sem_seg_head.predictor(scales, mask_features)
