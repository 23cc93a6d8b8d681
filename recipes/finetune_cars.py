"""Fine-tune AlexNet on cars: 196 makes, models and years, or your own folder of such classes.

TFDS cannot download Stanford Cars any more. Either put its four archives where TFDS looks for them
(started without them, this recipe says which and where), or give class folders. Leaves a model, a
report page with the pairs most often confused, and a SavedModel for TensorFlow Serving.

\b
python recipes/finetune_cars.py
    cars196, prepared by TFDS from archives in its folder downloads/manual
python recipes/finetune_cars.py --data-dir DIR --weights TRUNK.npz
    a folder of cars, one subfolder a class, and ImageNet's convolutions
"""

from command_line import FineTuneOptions, fine_tuning_recipe


@fine_tuning_recipe("finetune_cars", dataset="cars196", crop="whole", head_epochs=40)
def main(options: FineTuneOptions) -> None:
    from fine_tuning import fine_tuning

    fine_tuning(options)


if __name__ == "__main__":
    main()
