_base_ = ["../_base_/resnet18_cifar.py", "../_base_/cifar.py"]
data = dict(test=dict(data_prefix1="dataset/CIFAR-10-C", data_prefix2="dataset/generated/cifar10c"))
