"""Overrides of types that look at images.

In: nothing. Out: `OVERRIDES`, and `RESNET`, a small backbone. This module must never import anything but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ONE_EACH = [1, 1, 1, 1]
_SIZES = [8, 16, 24, 32]
_STAGES = {"depths": _ONE_EACH, "hidden_sizes": _SIZES}
_RESIDUAL = {"embedding_size": 8, "hidden_sizes": [16, 32, 48, 64], "depths": _ONE_EACH}
_SWIN = {"embed_dim": 16, "depths": [1, 2, 1, 1], "num_heads": [2, 4, 8, 16], "window_size": 2}
_ALL_STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET: Mapping[str, Any] = {"model_type": "resnet", **_RESIDUAL, "out_features": _ALL_STAGES}
_OWN_BACKBONE = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_kwargs": None,
    "backbone_config": RESNET,
}
"""The same detector with a backbone of transformers' own instead of timm's."""

_LEVELS = {**_OWN_BACKBONE, "backbone_config": {**RESNET, "out_features": _ALL_STAGES[1:]}}
_FOUR_LAYERS = {"num_hidden_layers": 4, "out_features": ..., "out_indices": [1, 2, 3, 4]}
_MASKS = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_queries": 10}
_REAL_TIME = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [32, 48, 64],
    "decoder_in_channels": [32, 32, 32],
    "num_denoising": 0,
}
_NARROW = {"width_coefficient": 0.1, "depth_coefficient": 0.1}
_HIERA = {
    "hidden_size": 8,
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": _SIZES,
    "num_attention_heads": 1,
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [8, 4, 4, 4],
    "window_positional_embedding_background_size": [2, 2],
    "global_attention_blocks": [3],
}
_SAM = {"output_channels": 32, "num_pos_feats": 16, "window_size": 2, "global_attn_indexes": [1]}

OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "beit": {"pool_scales": [1, 2], "auxiliary_channels": 16},
    "bit": {**_RESIDUAL, "num_groups": 4},
    "conditional_detr": _OWN_BACKBONE,
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "d_fine": {**_REAL_TIME, "encoder_in_channels": [16, 24, 32], "lqe_hidden_dim": 16},
    "dab-detr": {**_OWN_BACKBONE, "hidden_size": 32},
    "deformable_detr": _LEVELS,
    "depth_anything": {
        "backbone_config": {**_FOUR_LAYERS, "reshape_hidden_states": False},
        "reassemble_hidden_size": 32,
        "neck_hidden_sizes": _SIZES,
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
    },
    "depth_pro": {
        "patch_size": 32,
        "fusion_hidden_size": 16,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [16, 16],
        "scaled_images_feature_dims": [32, 32, 16],
        "image_model_config": {"image_size": 32, "patch_size": 8},
        "patch_model_config": {"image_size": 32, "patch_size": 8},
        "fov_model_config": {"image_size": 32, "patch_size": 8},
    },
    "detr": _OWN_BACKBONE,
    "dinov3_convnext": _STAGES,
    "donut-swin": _SWIN,
    "dpt": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": _SIZES, "fusion_hidden_size": 16},
    "efficientformer": {
        "depths": [1, 1, 1, 2],
        "hidden_sizes": _SIZES,
        "dim": 32,
        "key_dim": 8,
        "num_attention_heads": 4,
        "resolution": 2,
    },
    "efficientloftr": {
        "stage_num_blocks": _ONE_EACH,
        "out_features": [8, 8, 16, 32],
        "fine_fusion_dims": [32, 16, 8],
        "intermediate_size": ...,
        "num_attention_heads": 8,
        "num_attention_layers": 2,
    },
    "efficientnet": {**_NARROW, "hidden_dim": 128},
    "align_vision_model": {**_NARROW, "hidden_dim": 128},
    "focalnet": {"embed_dim": 8, "depths": _ONE_EACH},
    "glpn": {**_STAGES, "decoder_hidden_size": 16, "num_attention_heads": [1, 2, 4, 4]},
    "hgnet_v2": {
        "embedding_size": 8,
        "depths": _ONE_EACH,
        "hidden_sizes": [16, 16, 24, 32],
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 24],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 24, 32],
        "stage_num_blocks": _ONE_EACH,
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "hiera": {"image_size": [64, 64], "embed_dim": 8, "depths": _ONE_EACH, "num_heads": [1, 2, 4, 8]},
    "imagegpt": {"vocab_size": 65, "n_positions": 64},
    "levit": {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8]},
    "mask2former": {**_MASKS, "encoder_feedforward_dim": 64, "decoder_layers": 3, "train_num_points": 64},
    "maskformer": {"fpn_feature_size": 32, "mask_feature_size": 32, "decoder_config": {**_OWN_BACKBONE, "num_queries": 10}},
    "maskformer-swin": _SWIN,
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64], "num_attention_heads": 4},
    "mobilevitv2": {"base_attn_unit_dims": [16, 16, 24], "aspp_out_channels": 16, "n_attn_blocks": [1, 1, 1]},
    "oneformer": {
        **_MASKS,
        "conv_dim": 32,
        "mask_dim": 32,
        "encoder_feedforward_dim": 64,
        "decoder_layers": 3,
        "train_num_points": 64,
        "text_encoder_width": 32,
        "text_encoder_num_layers": 1,
        "text_encoder_vocab_size": 320,
    },
    "poolformer": _STAGES,
    "prompt_depth_anything": {
        "backbone_config": {**_FOUR_LAYERS, "reshape_hidden_states": False},
        "reassemble_hidden_size": 32,
        "neck_hidden_sizes": _SIZES,
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
    },
    "pvt": {**_STAGES, "num_attention_heads": [1, 2, 4, 4]},
    "pvt_v2": {**_STAGES, "num_attention_heads": [1, 2, 4, 4]},
    "regnet": {**_RESIDUAL, "groups_width": 8},
    "resnet": _RESIDUAL,
    "rt_detr": _REAL_TIME,
    "rt_detr_resnet": _RESIDUAL,
    "rt_detr_v2": _REAL_TIME,
    "sam_vision_model": _SAM,
    "sam_hq_vision_model": _SAM,
    "sam2_hiera_det_model": _HIERA,
    "sam2_vision_model": {
        "backbone_channel_list": [32, 24, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    },
    "segformer": {**_STAGES, "decoder_hidden_size": 16, "num_attention_heads": [1, 2, 4, 4]},
    "seggpt": {
        "image_size": [64, 32],
        "patch_size": 8,
        "num_hidden_layers": 4,
        "intermediate_hidden_state_indices": [1, 2, 3, 3],
        "merge_index": 0,
        "pretrain_image_size": 32,
        "decoder_hidden_size": 8,
    },
    "superglue": {"keypoint_encoder_sizes": [8, 16], "gnn_layers_types": ["self", "cross"], "sinkhorn_iterations": 10},
    "superpoint": {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 32, "descriptor_decoder_dim": 32},
    "lightglue": {"descriptor_dim": 32},
    "swiftformer": {"embed_dims": _SIZES, "depths": _ONE_EACH},
    "swin": _SWIN,
    "swin2sr": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 32},
    "swinv2": {**_SWIN, "pretrained_window_sizes": [0, 0, 0, 0]},
    "table-transformer": _OWN_BACKBONE,
    "textnet": {
        "stem_out_channels": 8,
        "hidden_sizes": [8, 8, 16, 24, 32],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
        "conv_layer_strides": [[2], [2], [2], [2]],
    },
    "timesformer": {"num_frames": 2},
    "upernet": {
        "backbone_config": {"out_features": _ALL_STAGES},
        "hidden_size": 32,
        "pool_scales": [1, 2],
        "auxiliary_in_channels": 48,
        "auxiliary_channels": 16,
    },
    "van": {"hidden_sizes": _SIZES, "depths": _ONE_EACH},
    "videomae": {"num_frames": 4},
    "vit-hybrid": {"backbone_config": {"out_features": ["stage3"]}, "backbone_featmap_shape": [1, 48, 4, 4]},
    "vitdet": {"window_block_indices": [0], "window_size": 2, "pretrain_image_size": 64},
    "vitmatte": {"fusion_hidden_sizes": _SIZES, "convstream_hidden_sizes": [8, 16, 24], "backbone_config": {"num_channels": 4}},
    "vitpose": {"backbone_config": {"image_size": [64, 48], "patch_size": [16, 16]}},
    "vitpose_backbone": {"image_size": [64, 48], "patch_size": [16, 16]},
    "vivit": {"num_frames": 4},
    "vjepa2": {
        "crop_size": 64,
        "frames_per_clip": 4,
        "pred_hidden_size": 32,
        "pred_num_hidden_layers": 2,
        "pred_num_attention_heads": 4,
    },
    "yolos": {"num_detection_tokens": 10},
    "zoedepth": {
        "backbone_config": {**_FOUR_LAYERS, "reshape_hidden_states": False},
        "neck_hidden_sizes": _SIZES,
        "fusion_hidden_size": 16,
        "bottleneck_features": 16,
        "num_attractors": [4, 2, 2, 1],
        "bin_embedding_dim": 16,
        "bin_configurations": [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    },
}
