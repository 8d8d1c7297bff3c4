_base_ = ["../_base_/resnet18_cifar.py", "../_base_/cifar.py"]
data = dict(
    test=dict(
        layout="cifar10", data_prefix1="dataset/cifar_10", data_prefix2="dataset/generated/cifar_10"
    )
)
