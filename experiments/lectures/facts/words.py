"""The slides' statements without a number, and whether they are right."""

WRONG, DAMAGED = "wrong on the slide", "unreadable"

# (lectures, what, the slide, verdict, why)
WORDS = (
    ("001", "the filter of 3, 10, 3", "Schorr", WRONG, "Scharr"),
    ("001", "flattened convolution", "Fire layer", WRONG, "Jin et al. 2014; Fire: squeeze 1x1, expand 1x1 and 3x3"),
    ("001", "the 1x1 in front of a 5x5", "Fire layer", WRONG, "a bottleneck, as in GoogLeNet; Fire has no 5x5"),
    ("001", "style transfer, enhancement, detection", "named", "out of scope", "other data and losses than classes"),
    ("002", "images of the X/O slides", "8x8, 10 columns", DAMAGED, "9x9, as the first of them"),
    ("002", "VGG's second table of configurations", "six blocks", DAMAGED, "five, as in Table 1 of the paper"),
    ("002", "ResNet's weight decay", "1e-5", WRONG, "1e-4 in the paper; `--config=resnet50_slide` has the slide's"),
    (
        "002",
        "top-5 error of AlexNet",
        "15.4 and 16.4%",
        "agrees",
        "7 networks with more data, and 5 networks: both right",
    ),
    ("002", "the first use of ReLU", "AlexNet", WRONG, "Nair and Hinton 2010, whom its paper cites"),
    ("004", "ZFNet's first layer", "stride 4", WRONG, "stride 2 in the paper, and in conv2 as well"),
)
