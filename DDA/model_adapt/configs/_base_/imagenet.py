# ImageNet-C's images have 224 pixels a side and are taken as they are. Adapted copies have 256, and
# are resized.
norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
load = dict(type="LoadImageFromFile", color_type="color_ignore_orientation")
end = [
    dict(type="Normalize", **norm),
    dict(type="ImageToTensor", keys=["img"]),
    dict(type="Collect", keys=["img"], meta_keys=()),
]
data = dict(
    samples_per_gpu=64,
    test=dict(
        layout="imagenetc",
        classes="imagenet",
        data_prefix1="dataset/imagenetc_5k",
        data_prefix2="dataset/generated/imagenetc_5k",
        pipeline=[load, *end],
        pipeline2=[
            load,
            dict(type="Resize", size=(224, 224), backend="pillow", interpolation="bicubic"),
            *end,
        ],
    ),
)
evaluation = dict(
    ensemble="sum", scores="logits", metrics=["accuracy"], corruption=["all"], severity=["5"]
)
