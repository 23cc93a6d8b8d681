"""Fine-tune AlexNet on flowers, or on any folder of photographs with one subfolder a class.

A linear classifier learns from what pretrained convolutions give, which stay as they are. Leaves a
model, a report page and a SavedModel for TensorFlow Serving.

\b
python recipes/finetune_flowers.py --dataset drawn_flowers --weights starter
    drawn flowers, the weights that come with the package: 99% in 76 seconds on 2 cores
python recipes/finetune_flowers.py --data-dir DIR --weights TRUNK.npz
    flower photographs, ImageNet's convolutions: 92 to 93% in a minute and a half
"""

from command_line import FineTuneOptions, fine_tuning_recipe


@fine_tuning_recipe("finetune_flowers")
def main(options: FineTuneOptions) -> None:
    from fine_tuning import fine_tuning

    fine_tuning(options)


if __name__ == "__main__":
    main()
