# CIFAR's test images at 32 pixels. The pipeline is for weights of mmcls alone: checkpoints of this
# project bring their own.
norm = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)
pipeline = [
    dict(type="LoadImageFromFile", color_type="color_ignore_orientation"),
    dict(type="Normalize", **norm),
    dict(type="ImageToTensor", keys=["img"]),
    dict(type="Collect", keys=["img"], meta_keys=()),
]
data = dict(
    samples_per_gpu=64,
    test=dict(layout="cifar10c", classes="cifar10", pipeline=pipeline, pipeline2=pipeline),
)
evaluation = dict(
    ensemble="sum", scores="logits", metrics=["accuracy"], corruption=["all"], severity=["all"]
)
