"""Overrides of types that read several kinds of input, and of their parts.

In: nothing. Out: `OVERRIDES`. This module must never import anything but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.coverage.overrides.images import RESNET

_SWIN_LEVELS = {"out_features": ["stage2", "stage3", "stage4"]}
_TOKENIZER_OF_IMAGES = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}

_MEMORY = {
    "memory_attention_hidden_size": 32,
    "memory_attention_feed_forward_hidden_size": 64,
    "memory_attention_mlp_hidden_size": 64,
    "memory_attention_num_layers": 1,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": 32,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 64,
    "memory_fuser_num_layers": 1,
}

OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    # a head of this type's vision tower is always 64 wide
    "bridgetower": {"hidden_size": 64, "contrastive_hidden_size": 32},
    "bridgetower_text_model": {"hidden_size": 64},
    "bridgetower_vision_model": {"hidden_size": 64},
    "blip-2": {"num_query_tokens": 4, "image_text_hidden_size": 32},
    "blip": {"image_text_hidden_size": 32},
    "instructblip": {"num_query_tokens": 4},
    "instructblipvideo": {"num_query_tokens": 4},
    "clipseg": {"extract_layers": [0, 1], "reduce_dim": 16},
    "emu3": {"vocabulary_map": {"<image>": 6}},
    "emu3_vqgan": {**_TOKENIZER_OF_IMAGES, "codebook_size": 32, "hidden_size": 32, "attn_resolutions": [0]},
    "evolla": {
        "aligner_num_add_layers": 1,
        "resampler_depth": 1,
        "resampler_dim_head": 8,
        "resampler_heads": 4,
        "resampler_num_latents": 4,
    },
    "florence_vision": {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 16, 24, 32],
        "num_heads": [1, 2, 3, 4],
        "num_groups": [1, 2, 3, 4],
        "window_size": 4,
    },
    "gemma3": {"mm_tokens_per_image": 4},
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "llava_next": {"image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]]},
    "llava_next_video": {"image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]]},
    "llava_onevision": {"image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]]},
    "grounding-dino": {"backbone_config": _SWIN_LEVELS, "max_text_len": 32},
    "mm-grounding-dino": {"backbone_config": _SWIN_LEVELS, "max_text_len": 32},
    "groupvit_vision_model": {"depths": [1, 1, 1], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4]},
    "idefics": {"additional_vocab_size": 0},
    "janus_vqgan": {
        **_TOKENIZER_OF_IMAGES,
        "num_embeddings": 32,
        "latent_channels": 32,
        "num_patches": 4,
        "image_token_embed_dim": 32,
    },
    "llama4_vision_model": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    "llama4_text": {"intermediate_size_mlp": 64},
    "mgp-str": {
        "num_character_labels": 20,
        "num_bpe_labels": 64,
        "num_wordpiece_labels": 64,
        "image_size": [32, 64],
        "patch_size": 4,
    },
    "mllama_vision_model": {
        "attention_heads": 4,
        "num_global_layers": 1,
        "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    },
    "omdet-turbo": {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_kwargs": None,
        "backbone_config": {**RESNET, "out_features": ["stage2", "stage3", "stage4"]},
        "encoder_in_channels": [32, 48, 64],
        "encoder_hidden_dim": 32,
        "encoder_dim_feedforward": 64,
        "decoder_hidden_dim": 32,
        "decoder_num_heads": 4,
        "decoder_num_layers": 2,
        "decoder_dim_feedforward": 64,
        "vision_features_channels": [32, 32, 32],
        "text_projection_in_dim": 32,
        "text_projection_out_dim": 32,
        "class_embed_dim": 32,
        "task_encoder_hidden_dim": 32,
    },
    "qwen2_vl": {"vision_config": {"embed_dim": 32, "hidden_size": 32, "depth": 2}},
    "phi4_multimodal": {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
            "crop_size": 64,
            "image_token_id": 6,
            "feature_layer": -1,
        },
        "audio_config": {
            "num_blocks": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 32,
        },
        "original_max_position_embeddings": 128,
    },
    "tvp": {
        "backbone_config": {**RESNET, "out_features": ["stage4"]},
        "type_vocab_size": 2,
        "max_img_size": 64,
        "visual_prompt_size": 8,
        "num_frames": 2,
    },
    "sam2_video": _MEMORY,
    "edgetam_video": _MEMORY,
}
