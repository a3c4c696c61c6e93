"""Shapes of the models that budgets are tested on."""

from rsdgc import ModelSpec


def small_resnet(classes=21):
    """A residual network with GroupNorm, 1.2 million parameters."""
    shapes = {"stem.weight": (32, 3, 3, 3), "stem.norm.weight": (32,), "stem.norm.bias": (32,)}
    width = 32
    for stage, out in enumerate((32, 64, 128, 256)):
        block = f"stage{stage}"
        for name, fan_in in (("conv1", width), ("conv2", out)):
            shapes[f"{block}.{name}.weight"] = (out, fan_in, 3, 3)
            shapes[f"{block}.{name}.norm.weight"] = (out,)
            shapes[f"{block}.{name}.norm.bias"] = (out,)
        if width != out:
            shapes[f"{block}.skip.weight"] = (out, width, 1, 1)
        width = out
    shapes["fc.weight"] = (classes, width)
    shapes["fc.bias"] = (classes,)
    return ModelSpec.from_shapes(shapes)


def vgg19(classes=45, divisor=1):
    """VGG-19's shapes, channels divided: 139.8 million parameters, or about 1/divisor² of it."""
    plan = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    shapes, width = {}, 3
    for index, full in enumerate(plan):
        out = full // divisor
        shapes[f"features.{index}.weight"] = (out, width, 3, 3)
        shapes[f"features.{index}.bias"] = (out,)
        width = out
    hidden = 4096 // divisor
    sizes = [(hidden, width * 49), (hidden, hidden), (classes, hidden)]
    for index, shape in enumerate(sizes):
        shapes[f"classifier.{index}.weight"] = shape
        shapes[f"classifier.{index}.bias"] = shape[:1]
    return ModelSpec.from_shapes(shapes)
