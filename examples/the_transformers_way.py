"""The same model as transformers' own objects: two pictures of different sizes in one batch."""

from importlib.resources import files
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import minimonkey

minimonkey.register()
folder = str(files("minimonkey") / "nano")
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder).eval()

pictures = [Image.open(Path(__file__).parent / name).convert("RGB") for name in ("line.png", "page.png")]
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read the text."}]}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(images=pictures, text=[prompt, prompt], return_tensors="pt")
answers = model.generate(**inputs, max_new_tokens=60, do_sample=False)
for answer in answers[:, inputs["input_ids"].shape[1] :]:
    print(processor.decode(answer, skip_special_tokens=True))
