import minimonkey, torch
from minimonkey.training.run import run_tuning
def test_smoke(tuning, tmp_path):
    import json
    out = run_tuning(tuning(out="run"))
    print(open("run/log.jsonl").read())
    vlm = minimonkey.load(out)
    print(vlm.ask("images/1.png", "Which number?", max_new_tokens=4))
