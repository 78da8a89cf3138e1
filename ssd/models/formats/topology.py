"""Where the original toolkit's networks differ from the public ones whose weights they take: notes for reports."""

RESNET = (
    "the public ResNet max-pools behind conv1 and strides by 1, 2, 2, 2 in its stages; here nothing pools and stages "
    "stride by 2, 2, 2, 1: the same kernels at other strides, not the same function",
    "shortcuts that are identities in the public ResNet are loaded as exact unit projections",
)
STRIDE_IN_3X3 = ("torchvision's bottlenecks stride in the 3x3 convolution, ours in the first 1x1",)
VGG = (
    "the public VGG max-pools between stages; here the first convolution of a stage strides by 2: the same kernels, "
    "not the same function",
)
NO_BATCH_NORM = ("the file's network has no batch normalisation: ours starts neutral, with its biases",)
GOOGLENET = (
    "the public GoogLeNet pools 3x3 with stride 2, ours 2x2, and ours has no pooling before inception_5a",
    "torchvision's 5x5 branch has 3x3 kernels: they stand in the middle of ours",
)
SQUEEZENET = ("the public SqueezeNet does not pad conv1 and its poolings; ours does: features shift by a few pixels",)
RELU6 = ("the public network clips activations at 6 (ReLU6), ours does not",)
MOBILENET_V1 = (*RELU6, "the public blocks 12 and 13 have no place here")
MOBILENET_V2 = (
    *RELU6,
    "the public blocks 13 to 16 have no place here",
    "additions of the block's input are loaded as exact unit projections",
)
TENSORFLOW_PADDING = (
    "Keras pads strided convolutions at the end alone (MobileNetV2 at even sizes only), ours on both sides: "
    "half a step's shift",
)
TORCH_PADDING = ("torchvision and timm pad symmetrically, ours at the end on even sizes: half a step's shift",)
LEAKY = ("Darknet was trained with leaky ReLU (0.1), ours has ReLU",)
TIMM_LEAKY = ("timm's DarkNet was trained with leaky ReLU (0.01), ours has ReLU",)
