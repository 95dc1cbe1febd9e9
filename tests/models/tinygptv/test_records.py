"""TinyGPT-V's network against the published one's recorded states: encoder, Q-Former, projections, Phi-2, losses and gradients."""

import json

import numpy as np
import pytest
import torch

from minimonkey.checkpoints.tensors import LazyTensor
from minimonkey.checkpoints.tinygptv_names import STAGE, native_tensors
from minimonkey.data import encode, read_conversations
from minimonkey.documents import load_picture

PICTURES = {"c": "scene_c.png", "d": "scene_d.png"}
SCENES = {"stage4_448_c": ("c", 448), "stage4_448_d": ("d", 448), "stage3_224_c": ("c", 224)}
END_ID, TEXT_ID = 257, 426
"""Ids of "###" and "<|endoftext|>"."""


@pytest.fixture(scope="module")
def records(golden):
    """All arrays, by file and name, and golden.json."""
    folder = golden / "tinygptv"
    arrays = {name: np.load(folder / f"{name}.npz") for name in ("vision", "llm")}
    return arrays | {"json": json.loads((folder / "golden.json").read_text())}


@pytest.fixture
def processor(recorded_tinygptv):
    yield recorded_tinygptv.processor
    recorded_tinygptv.processor.use_form("evaluation")


@pytest.fixture
def pictures(golden):
    """The recorded pictures, by their letters."""
    folder = golden / "tinygptv" / "images"
    return {letter: load_picture(folder / name, as_published=True) for letter, name in PICTURES.items()}


@pytest.fixture
def pixels(pictures, recorded_tinygptv):
    """Pixel values of recorded pictures: `pixels("cd", 448)`."""

    def make(letters, tile_px):
        shown = [pictures[letter] for letter in letters]
        return recorded_tinygptv.processor.image_processor(shown, pyramid={"tile_px": tile_px}, return_tensors="pt").pixel_values

    return make


def watched(module, seen, name):
    return module.register_forward_hook(
        lambda _, __, output: seen.__setitem__(name, output[0] if isinstance(output, tuple) else output)
    )


def close(ours, recorded, tolerance):
    torch.testing.assert_close(ours.detach(), torch.from_numpy(recorded), rtol=0, atol=tolerance)


@pytest.mark.parametrize("scene", SCENES)
def test_vision_states(recorded_tinygptv, records, pixels, scene):
    model, (name, tile_px) = recorded_tinygptv.model.model, SCENES[scene]
    every, seen = {448: 64, 224: 16}[tile_px], {}
    watch = {"patch_embed": model.vision_tower.embeddings.patch_embedding, "qformer_embed": model.qformer.layernorm}
    watch |= {f"vit_block{i}": layer for i, layer in enumerate(model.vision_tower.encoder.layers)}
    watch |= {f"qformer_layer{i}": layer for i, layer in enumerate(model.qformer.encoder.layer)}
    watch |= {"ln_vision": model.vision_layernorm, "llama_proj": model.multi_modal_projector.linear_1}
    hooks = [watched(module, seen, key) for key, module in watch.items()]
    with torch.no_grad():
        features = model.get_image_features(pixels(name, tile_px)).pooler_output
    for hook in hooks:
        hook.remove()
    seen["patch_embed"] = seen["patch_embed"].flatten(2).transpose(1, 2)
    for key, state in seen.items():
        thinned = state[0][:, ::64] if key == "llama_proj" else state[0] if key.startswith("qformer") else state[0][::every]
        close(thinned, records["vision"][f"{scene}__{key}"], 1e-4)
    close(features[0], records["vision"][f"{scene}__image_embeds"], 1e-4)
    assert seen["ln_vision"].shape[1] == records["vision"][f"{scene}__n_vision_tokens"]


def test_the_table_of_positions(recorded_tinygptv, records):
    embeddings = recorded_tinygptv.model.model.vision_tower.embeddings
    table = embeddings.interpolate_pos_encoding(torch.empty(1, 1025, 48), 448, 448)
    close(table[0, ::64], records["vision"]["pos_embed_1025_stride64"], 1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_prompts(recorded_tinygptv, records, pixels, number):
    """Ids, embeddings, hidden states, and the logits of every second position."""
    llm, case = records["llm"], records["json"]["cases"][f"prompt{number}"]
    ids = recorded_tinygptv.processor.encode_chat(records["json"]["questions"][number], pictures=[1])
    before, behind = case["segment_ids"]
    image = recorded_tinygptv.processor.image_token_id
    assert ids == before + [image] * 32 + behind and len(ids) == case["n_tokens"]
    with torch.no_grad():
        network = recorded_tinygptv.model
        encoded = network.get_image_features(pixels("cd"[number], 448))
        close(network.model.embed(torch.tensor([ids]), encoded)[0], llm[f"prompt{number}__inputs_embeds"], 1e-4)
        inputs = {"input_ids": torch.tensor([ids]), "mm_encoder_outputs": {"image": encoded}}
        output = network(**inputs, output_hidden_states=True)
    close(output.logits[0].flip(0)[::2], llm[f"prompt{number}__logits_stride2_from_end"], 1e-3)
    close(output.hidden_states[1][0, -8:], llm[f"prompt{number}__hidden_layer1_last8"], 1e-3)
    close(output.hidden_states[-1][0, -8:], llm[f"prompt{number}__hidden_final_last8"], 1e-3)
    assert output.logits[0].argmax(-1).tolist() == llm[f"prompt{number}__argmax"].tolist()


def test_inside_the_first_layer(recorded_tinygptv, records, pixels):
    network, seen = recorded_tinygptv.model, {}
    layer = network.model.language_model.layers[0]
    attention = layer.self_attn
    watch = {"input_layernorm": layer.input_layernorm, "post_layernorm": attention.post_layernorm, "mlp": layer.mlp}
    watch |= {"q_layernorm": attention.q_layernorm, "k_layernorm": attention.k_layernorm}
    watch |= {"query_key_value": attention.query_key_value, "dense": attention.dense}
    watch |= {"more_query_key_value": attention.query_key_value_update, "more_dense": attention.dense_update}
    hooks = [watched(module, seen, name) for name, module in watch.items()]
    ids = recorded_tinygptv.processor.encode_chat(records["json"]["questions"][0], pictures=[1])
    with torch.no_grad():
        network(input_ids=torch.tensor([ids]), pixel_values=pixels("c", 448))
    for hook in hooks:
        hook.remove()
    for name in ("query_key_value", "dense"):  # recorded with their updates
        seen[name] = seen[name] + seen.pop(f"more_{name}")
    for name in ("q_layernorm", "k_layernorm"):  # recorded before heads and positions change places
        seen[name] = seen[name].transpose(1, 2)
    for name, state in seen.items():
        close(state[0, -8:], records["llm"][f"layer0__{name}_last8"], 1e-3)


def test_the_prompt_of_stage_3(recorded_tinygptv, records, pixels, processor):
    case = records["json"]["cases"]["stage3_prompt"]
    processor.use_form("demo-224")
    assert processor.prompt("describe this image", pictures=1) == case["text"]
    ids = processor.encode_chat("describe this image", pictures=[1])
    assert len(ids) == case["n_tokens"]
    with torch.no_grad():
        logits = recorded_tinygptv.model(input_ids=torch.tensor([ids]), pixel_values=pixels("c", 224)).logits[0]
    close(logits[-1], records["llm"]["stage3_prompt__logits_last"], 1e-3)
    assert logits.argmax(-1).tolist() == records["llm"]["stage3_prompt__argmax"].tolist()


def test_a_batch_of_answers(recorded_tinygptv, records, pictures):
    """Ids, and scores of the first and the last new token."""
    texts = records["json"]["prompts_minigptv2_conversation"]
    inputs = recorded_tinygptv.processor(text=texts, images=list(pictures.values()), return_tensors="pt")
    settings = {"max_new_tokens": 16, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    output = recorded_tinygptv.model.generate(**inputs, **settings)
    new = output.sequences[:, inputs.input_ids.shape[1] :].tolist()
    case = records["json"]["cases"]["generate_batch"]
    assert new == [row[1:] for row in case["sequences"]]
    assert inputs.attention_mask.sum(1).tolist() == case["attention_mask_lengths"]
    assert recorded_tinygptv.processor.batch_decode(new, skip_special_tokens=True) == case["answers_plain"]
    close(output.scores[0], records["llm"]["generate_batch__first_scores"], 1e-3)
    close(output.scores[-1], records["llm"]["generate_batch__last_scores"], 1e-3)


# -- training ----------------------------------------------------------------------------------------------------------------------


def sample(processor, turns, *, pictures):
    """Ids, labels and mask of one sample, by the processor's form. Later questions begin with a token that gets no attention:
    the published code takes it for padding, which has the same id."""
    ids, labels, mask = [], [], []
    for number, (question, answer) in enumerate(turns):
        asked = processor.encode_chat(question, pictures=[1] * (pictures and not number))
        answered = processor.encode_answer(answer)
        ids += asked + answered
        labels += [-100] * len(asked) + answered
        mask += [int(number == 0)] + [1] * (len(asked) + len(answered) - 1)
    return ids, labels, mask


def batch_of(samples, pixel_values=None):
    """Samples as a batch, padded on the right."""
    longest = max(len(ids) for ids, _, _ in samples)
    padded = [[row + [pad] * (longest - len(row)) for row, pad in zip(rows, (TEXT_ID, -100, 0), strict=True)] for rows in samples]
    names = ("input_ids", "labels", "attention_mask")
    batch = dict(zip(names, map(torch.tensor, zip(*padded, strict=True)), strict=True))
    return batch if pixel_values is None else batch | {"pixel_values": pixel_values}


@pytest.fixture
def instruction_batch(records, processor, pixels):
    processor.use_form("stage-4")
    answers = records["json"]["losses"]["instruction"]["samples"]["answer"]
    turns = zip(records["json"]["questions"], answers, strict=True)
    return batch_of([sample(processor, [turn], pictures=True) for turn in turns], pixels("cd", 448))


def check_targets(batch, part_targets, lengths):
    """What is learnt, in the recorded rows, which are padded differently."""
    for labels, targets, length in zip(batch["labels"].tolist(), part_targets.tolist(), lengths, strict=True):
        assert [label for label in labels[length + 1 :] if label != -100] == [target for target in targets if target != -100]
        assert set(labels[: length + 1]) == {-100}


def loss_of(network, batch):
    with torch.no_grad():
        return network(**batch).loss.item()


def test_the_loss_of_an_instruction(recorded_tinygptv, records, instruction_batch):
    recorded = records["json"]["losses"]["instruction"]
    check_targets(instruction_batch, records["llm"]["instruction__part_targets"], recorded["input_lens"])
    assert loss_of(recorded_tinygptv.model, instruction_batch) == pytest.approx(recorded["loss"], abs=1e-4)


def test_the_loss_of_a_conversation(recorded_tinygptv, records, processor, pixels):
    recorded = records["json"]["losses"]["conversation"]
    questions, answers = (recorded["samples"][name][0].split("!@#") for name in ("conv_q", "conv_a"))
    processor.use_form("stage-4")
    first, later = (question.replace("<Img><ImageHere></Img> ", "").removesuffix(" ") for question in questions)
    asked = sample(processor, [(first, answers[0])], pictures=True)
    whole = processor.encode_chat(later, pictures=[1], history=[(f"<image> {first}", answers[0])])
    ids, labels, mask = asked
    assert whole[: len(ids)] == ids
    answer, question = processor.encode_answer(answers[1]), whole[len(ids) :]
    labels = labels + [-100] * len(question) + answer
    mask = mask + [0] + [1] * (len(question) + len(answer) - 1)
    batch = batch_of([(whole + answer, labels, mask)], pixels("c", 448))
    length = recorded["input_lens"][0]
    assert batch["labels"][0, length + 1 :].tolist() == records["llm"]["conversation__part_targets"][0].tolist()
    assert mask[1:] == records["llm"]["conversation__attention_mask_without_bos"][0].tolist()
    assert loss_of(recorded_tinygptv.model, batch) == pytest.approx(recorded["loss"], abs=1e-4)


def test_the_loss_of_text_alone(recorded_tinygptv, records, processor):
    recorded = records["json"]["losses"]["text_only"]
    processor.use_form("stage-4")
    turns = zip(recorded["samples"]["instruction_input"], recorded["samples"]["answer"], strict=True)
    batch = batch_of([sample(processor, [turn], pictures=False) for turn in turns])
    check_targets(batch, records["llm"]["text_only__part_targets"], recorded["input_lens"])
    assert batch["input_ids"].shape[1] == recorded["seq_len_with_bos"]
    assert loss_of(recorded_tinygptv.model, batch) == pytest.approx(recorded["loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("record", "form", "question"),
    [("stage1_no_instruction_224", "stage-1", ""), ("stage3_prompt_224", "stage-3", "Describe this image in detail.")],
)
def test_losses_at_224_px(recorded_tinygptv, records, processor, pixels, record, form, question):
    recorded = records["json"]["losses"][record]
    processor.use_form(form)
    samples = []
    for answer in recorded["samples"]["answer"]:
        ids, labels, mask = sample(processor, [(question, answer)], pictures=True)
        if form == "stage-1":  # recorded with the end that later stages have
            ids[-1] = labels[-1] = END_ID
        samples.append((ids, labels, mask))
    batch = batch_of(samples, pixels("cd", 224))
    check_targets(batch, records["llm"][f"{record.partition('_')[0]}__part_targets"], recorded["input_lens"])
    assert batch["input_ids"].shape[1] == recorded["seq_len_with_bos"]
    assert loss_of(recorded_tinygptv.model, batch) == pytest.approx(recorded["loss"], abs=1e-4)


@pytest.mark.parametrize(("form", "asked"), [("stage-1", ""), ("stage-3", "what is it?"), ("stage-4", "[vqa] what is it?")])
def test_rows_become_what_the_published_code_trains_on(golden, processor, tmp_path, form, asked):
    """The data room knows nothing of forms: it asks the processor."""
    said = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": "a dog"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "scene_c.png", "conversations": said}))
    (row,) = read_conversations(tmp_path / "rows.jsonl", images=golden / "tinygptv" / "images")
    processor.use_form(form)
    example = encode(row, processor)
    ids, labels, _ = sample(processor, [(asked, "a dog")], pictures=True)
    if form == "stage-1":  # white space isn't learnt: the end of these answers is "\n"
        ids, labels = ids[:-1], labels[:-1]
    assert example["input_ids"].tolist()[: len(ids)] == ids and example["labels"].tolist()[: len(ids)] == labels
    assert example["pixel_values"].shape == (1, 3, 448, 448)


def test_candidates_are_ranked_by_loss(recorded_tinygptv, records, processor, pixels):
    recorded = records["json"]["losses"]["multi_select"]
    processor.use_form("stage-4")
    question, picture = records["json"]["questions"][0], pixels("c", 448)
    batches = [batch_of([sample(processor, [(question, said)], pictures=True)], picture) for said in recorded["candidates"]]
    losses = [loss_of(recorded_tinygptv.model, batch) for batch in batches]
    assert losses == pytest.approx(recorded["losses"], abs=1e-4)
    assert [sorted(range(3), key=losses.__getitem__)] == recorded["ranking"]


@pytest.fixture(scope="module")
def trained(golden):
    """A network of its own, frozen as published."""
    import minimonkey

    network = minimonkey.load(golden / "tinygptv" / "checkpoint", vision_heads=3).model
    return network, network.freeze_as_published()


def native_name(published):
    ((name, _),) = native_tensors({published: LazyTensor((1,), lambda: torch.empty(1))}, STAGE)[0].items()
    return name


def test_what_is_trained(trained, golden):
    keys = json.loads((golden / "tinygptv" / "stage_checkpoint_keys.json").read_text())
    due = {native_name(name) for name, trains in keys["all_parameters_requires_grad"].items() if trains}
    assert set(trained[1]) == due and len(due) == 29


def test_gradients(trained, records, instruction_batch):
    network, recorded = trained[0].train(), records["json"]["losses"]["instruction"]
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = network(**instruction_batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss_train_mode_dropout0"], abs=1e-4)
    norms = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert norms == pytest.approx({native_name(name): norm for name, norm in recorded["grad_norm"].items()}, rel=1e-3)


def test_what_is_frozen_drops_nothing(trained):
    network = trained[0].train()
    assert network.training and network.model.language_model.layers[0].resid_dropout.training
    assert not network.model.qformer.training and not network.model.vision_tower.training
