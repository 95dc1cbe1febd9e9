"""The command line as scripts of others rely on it."""

SURFACE = {
    "": ["--help", "--version", "-h"],
    "ask": [
        *(
            "--compression",
            "--device",
            "--draw",
            "--draw-kept",
            "--dtype",
            "--engine",
            "--frames",
            "--help",
            "--json",
            "--max-new-tokens",
            "--model",
            "--no-pyramid",
            "--pages",
            "--pyramid",
            "--quantize",
            "--quiet",
            "--system",
            "--vision-heads",
        ),
        *("-h", "-m", "-q", "PICTURE... QUESTION"),
    ],
    "batch": [
        *("--compression", "--device", "--dtype", "--engine", "--fields", "--help", "--max-errors", "--max-new-tokens", "--model"),
        *("--no-pyramid", "--out", "--pages", "--pyramid", "--quantize", "--question", "--quiet", "--ray", "--resume", "--schema"),
        *("--system", "--whole", "--workers", "-h", "-m", "-o", "-q", "INPUT..."),
    ],
    "bench": [
        *("--device", "--dtype", "--engine", "--help", "--json", "--model", "--no-pyramid", "--picture", "--pyramid"),
        *("--quantize", "-h", "-m"),
    ],
    "chat": [
        *("--compression", "--device", "--dtype", "--engine", "--help", "--max-new-tokens", "--model", "--no-pyramid", "--pages"),
        *("--pyramid", "--quantize", "--system", "-h", "-m", "PICTURE..."),
    ],
    "convert": ["--help", "--to", "--vision-heads", "-h", "DST", "SRC"],
    "data": ["--help", "-h"],
    "data check": [*("--help", "--images", "--max-tokens", "--model", "--no-pyramid", "--pyramid", "-h", "-m", "FILE")],
    "data convert": ["--form", "--help", "--images", "--pictures", "-h", "DST", "SRC"],
    "data packages": ["--help", "-h"],
    "data show": ["--help", "--images", "--model", "--no-pyramid", "--out", "--pyramid", "-h", "-m", "-o", "FILE", "N"],
    "data stats": [*("--help", "--images", "--limit", "--model", "--no-pyramid", "--out", "--pyramid", "-h", "-m", "FILE")],
    "data synthetic": [
        *("--contact-sheet", "--count", "--dots", "--held-out", "--help", "--kind", "--out", "--questions", "--seed", "-h"),
    ],
    "doctor": ["--help", "-h"],
    "extract": [
        *("--device", "--dtype", "--engine", "--fields", "--help", "--json", "--max-new-tokens", "--model", "--no-pyramid"),
        *("--pages", "--pyramid", "--quantize", "--question", "--schema", "--system", "-h", "-m", "PICTURE..."),
    ],
    "inspect": ["--help", "--model", "--no-pyramid", "--out", "--pyramid", "--tiles", "-h", "-m", "-o", "PICTURE"],
    "train": ["--help", "-h", "RECIPE", "[KEY=VALUE]..."],
}
"""Every command with its options and arguments. Scripts of others rely on them: change this on purpose."""
