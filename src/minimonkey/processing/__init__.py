"""Pictures and text to tensors, equal to the published code's: image processor, processor, tokenizers, chat templates."""
