"""What of transformers' tests fails on our classes by design, and why. An entry that passes is an error, as whatever else fails."""

STRICT = "loading is strict: a tensor that the configuration doesn't expect, or none where it does, is a CheckpointError"
EXPLAINED = "transformers' RuntimeError comes as a CheckpointError, in its words"
RGB = "pictures are read as RGB, as published; another number of means is a UsageError"
PILLOW = "Pillow is the reference of the published tiles; torchvision is never used"
WHOLE_PYRAMID = "a pyramid given as a dict of some fields comes back with all of them"
TILES = "the test counts pictures in pixel_values, where tiles stand"
WORDS = "pictures that don't match their marks are a PromptError in our words"

BY_DESIGN = {
    "ModelTest.test_base_model_prefix_loads_base_weights": STRICT,
    "ModelTest.test_correct_missing_keys": STRICT,
    "ModelTest.test_model_weights_reload_no_missing_tied_weights": STRICT,
    "ModelTest.test_cannot_load_with_meta_device_context_manager": EXPLAINED,
    "ProcessorTest.test_apply_chat_template_image_0": TILES,
    "ProcessorTest.test_apply_chat_template_image_1": TILES,
    "ProcessorTest.test_if_input_has_mismatching_tokens_and_mm_data": WORDS,
    "PyramidProcessorTest.test_if_input_has_mismatching_tokens_and_mm_data": WORDS,
    "PyramidProcessorTest.test_apply_chat_template_image_0": TILES,
    "PyramidProcessorTest.test_apply_chat_template_image_1": TILES,
    "ImageProcessorTest.test_call_numpy_4_channels": RGB,
    "ImageProcessorTest.test_new_models_require_torchvision_backend": PILLOW,
    "PyramidImageProcessorTest.test_call_numpy_4_channels": RGB,
    "PyramidImageProcessorTest.test_new_models_require_torchvision_backend": PILLOW,
    "PyramidImageProcessorTest.test_image_processor_from_dict_has_attributes": WHOLE_PYRAMID,
    "PyramidImageProcessorTest.test_image_processor_has_attributes": WHOLE_PYRAMID,
    "PyramidImageProcessorTest.test_image_processor_to_json_string": WHOLE_PYRAMID,
}
OF_GENERATION = {
    "ModelTest.test_inherits_generation_mixin": "our GenerationMixin comes through InternVL's class, not as a direct base",
}
"""Those of a whole checkout's tests of generation."""
