"""Write a folder of photographs as TFRecords with checksums, which training reads in any order.

Interrupted at any moment, the same command goes on, and ends with the same bytes. Unreadable images
are left out and listed in skipped.txt. Train on the result by giving it as --data-dir.

\b
python recipes/make_tfrecords.py --data-dir imagenet --output imagenet_records --resize 256
    imagenet/train and imagenet/val, one subfolder a class, the shorter side reduced to 256 px
python recipes/make_tfrecords.py --output imagenet_records --verify
    compares every file with its checksum
"""

import sys

from command_line import RecordsOptions, records_recipe


@records_recipe("make_tfrecords")
def main(options: RecordsOptions) -> None:
    from alexnet_keras.data.convert import convert, verify

    verbose = 1 if sys.stdout.isatty() else 2
    if options.verify:
        print(verify(options.output, verbose))
        return
    print(
        convert(
            options.data_dir,
            options.output,
            shards=options.shards,
            shard_megabytes=options.shard_megabytes,
            resize=options.resize,
            quality=options.quality,
            verbose=verbose,
        )
    )


if __name__ == "__main__":
    main()
