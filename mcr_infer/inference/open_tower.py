"""Opens a tower of a bundle: on the device that was asked for, or an error. No runtime falls back to another device.

bundle, side, device, precision -> OnnxTower or TensorRTTower -> compared with the manifest -> a Tower
"""

from mcr_infer.errors import BackendError, BundleError
from mcr_infer.inference.bundle import FULL, TOWER_OUTPUTS, Bundle, Precision
from mcr_infer.inference.tower import DEVICES, Purpose, Side, TensorSpec, Tower


def open_tower(
    bundle: Bundle,
    side: Side,
    *,
    device: str = "auto",
    precision: str = FULL,
    threads: int | None = None,
    purpose: Purpose = "bulk",
) -> Tower:
    """Open one tower of a bundle, its file verified, on `auto`, `cpu`, `cuda`, `tensorrt` or `tensorrt-rtx`.

    `auto` is cuda where it works, else cpu; the last two take an engine that was built and measured for this GPU.

    `threads` None is one a core that the process may use. For `purpose` see `Purpose`; `one_shot` may take the digest of a
    large file from memory (see `mcr_infer.files`). A precision whose rows would depend on their batch runs one
    unpadded item a call, whatever `run` is given. Raises `BackendError` when the runtime is missing or cannot do what was
    asked or cannot serve the precision, `BundleError` when the bundle lacks the precision, the file is damaged or it is
    not the graph that the manifest describes.
    """
    from mcr_infer.inference.checked_tower import OneItemTower
    from mcr_infer.inference.ort_tower import OnnxTower
    from mcr_infer.inference.tensorrt_api import FLAVORS

    variant = bundle.variant(precision)
    path = bundle.verified_tower(side, precision, remembered=purpose == "one_shot")
    tower: Tower
    if device in FLAVORS:
        from mcr_infer.inference.tensorrt_tower import open_engine

        tower = open_engine(bundle, side, precision=precision, flavor=FLAVORS[device])
    else:
        if variant is not None:
            device = device if purpose == "proof" else _device_for(variant, device)
        tower = OnnxTower(path, device=device, threads=threads, purpose=purpose)
    dim, size, area = bundle.embedding_dim, bundle.preprocess.image_size, bundle.preprocess.patch_size**2
    # A tower of whole pictures has one part in each.
    parts = 1 if side == "image" and bundle.preprocess.input == "pixels" else None
    expected = {
        "patches": TensorSpec(dtype="float32", shape=(None, None, area)),
        "pixels": TensorSpec(dtype="float32", shape=(None, size, size)),
        "positions": TensorSpec(dtype="int64", shape=(None, None)),
        "input_ids": TensorSpec(dtype="int64", shape=(None, None)),
        "attention_mask": TensorSpec(dtype="int64", shape=(None, None)),
        "embedding": TensorSpec(dtype="float32", shape=(None, dim)),
        "local": TensorSpec(dtype="float32", shape=(None, parts, dim)),
        "weights": TensorSpec(dtype="float32", shape=(None, parts)),
    }
    found = {**tower.inputs, **tower.outputs}
    inputs = bundle.tower_inputs[side]
    wanted = {name: expected[name] for name in (*inputs, *TOWER_OUTPUTS)}
    if set(tower.inputs) != set(inputs) or found != wanted:
        raise BundleError(
            f"{path} is not the {side} tower that the manifest describes: it has {found}, expected {wanted}; "
            "export the bundle again"
        )
    return OneItemTower(tower) if variant is not None and variant.one_item else tower


def _device_for(variant: Precision, device: str) -> str:
    """Choose the device of a precision: the one named if it serves it, for `auto` the first that does."""
    served = [one for one in DEVICES if one in variant.runtimes]
    if device not in DEVICES:
        raise BackendError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if device in served:
        return device
    if device != "auto" or not served:
        why = {
            # Seen in onnxruntime 1.32: the optimised graph has its weights and products in fp32 again.
            ("fp16", "cpu"): ": the CPU would cast it to fp32 and gain nothing",
            ("int8", "cuda"): ": this int8 was measured on the CPU alone",
        }.get((variant.name, device), "")
        raise BackendError(
            f"{variant.name} is not served on {device}{why}; it is made for {' and '.join(variant.runtimes)}: choose "
            "another --device, or --precision fp32"
        )
    return "auto" if len(served) > 1 else served[0]
