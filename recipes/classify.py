"""Name what photographs show: the best of ImageNet's 1000 classes for each.

A folder stands for all photographs below it.

\b
python recipes/classify.py dog.jpg holiday/
    torchvision's weights, 233 MiB, downloaded once
python recipes/classify.py dog.jpg --weights bvlc_alexnet.caffemodel
    weights from a file of any published format
"""

import sys

from command_line import ClassifyOptions, classifying_recipe


@classifying_recipe("classify")
def main(options: ClassifyOptions) -> int:
    from alexnet_keras import AlexNet, decode_predictions
    from alexnet_keras.data import read_paths, screen
    from alexnet_keras.evaluation import predict
    from alexnet_keras.weights import from_pixels

    photographs, skipped = screen(read_paths(options.photographs))
    for bad in skipped:
        print(f"Error: {bad.key} is left out: {bad.reason}.", file=sys.stderr)
    if not len(photographs):
        return 2

    model = from_pixels(AlexNet(weights=options.weights, variant=options.variant))
    probabilities = predict(model, photographs, batch_size=options.batch_size)
    for path, best in zip(
        photographs.keys, decode_predictions(probabilities, top=options.top), strict=True
    ):
        print(path)
        for _, name, score in best:
            print(f"  {score:6.1%}  {name.replace('_', ' ')}")
    return 2 if skipped else 0


if __name__ == "__main__":
    main()
