// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// Stands in, in the virtual machine of `cargo xtask passthrough-vm`, for the kernel side of NVIDIA's driver, as far as
// somebody sees it who takes GPUs from it and gives them back. It computes nothing.
//
// - A GPU is its own while the link `driver` says nvidia.
// - /dev/nvidiaN, N below the fixed major number, can be open many times; these are counted. N is the lowest that is free.
// - /proc/driver/nvidia/gpus/<address>/unbindLock: who writes 1 and reads 1 has the GPU to itself, and opens fail from then
//   on; who reads 0 came while it was in use. Writing 0 gives it back.
// - Taking a GPU away that is in use waits until it isn't, in the kernel and for as long as that takes.
//
// Nobody unloads it, so it has no end.
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define NVIDIA_MAJOR 195
#define CONTROL_MINOR 255
#define MOST 16

struct gpu {
	struct pci_dev *pci;
	struct proc_dir_entry *dir;
	unsigned int minor;
	unsigned int users;
	bool locked;
	bool leaving;
};

// Guards the table and what is in it.
static DEFINE_MUTEX(all);
static struct gpu *gpus[MOST];
static struct proc_dir_entry *gpus_dir;

static int open_node(struct inode *inode, struct file *file)
{
	unsigned int minor = iminor(inode);
	// The stand-in for NVML takes ENODEV for a node that no driver is behind, and such a GPU for one that is there.
	int failed = -EIO;

	if (minor == CONTROL_MINOR)
		return 0;
	mutex_lock(&all);
	if (minor < MOST && gpus[minor] && !gpus[minor]->locked && !gpus[minor]->leaving) {
		gpus[minor]->users++;
		file->private_data = gpus[minor];
		failed = 0;
	}
	mutex_unlock(&all);
	return failed;
}

static int close_node(struct inode *inode, struct file *file)
{
	struct gpu *gpu = file->private_data;

	if (!gpu)
		return 0;
	mutex_lock(&all);
	gpu->users--;
	mutex_unlock(&all);
	return 0;
}

static const struct file_operations node_operations = {
	.owner = THIS_MODULE,
	.open = open_node,
	.release = close_node,
};

// Unified memory is had by whoever opens it.
static const struct file_operations uvm_operations = {
	.owner = THIS_MODULE,
};

static int show_unbind_lock(struct seq_file *out, void *unused)
{
	struct gpu *gpu = out->private;

	mutex_lock(&all);
	seq_printf(out, "%d\n", gpu->locked);
	mutex_unlock(&all);
	return 0;
}

static int open_unbind_lock(struct inode *inode, struct file *file)
{
	return single_open(file, show_unbind_lock, pde_data(inode));
}

static ssize_t write_unbind_lock(struct file *file, const char __user *text, size_t length, loff_t *at)
{
	struct gpu *gpu = ((struct seq_file *)file->private_data)->private;
	bool wanted;
	int failed = kstrtobool_from_user(text, length, &wanted);

	if (failed)
		return failed;
	mutex_lock(&all);
	if (!wanted || gpu->users == 0)
		gpu->locked = wanted;
	mutex_unlock(&all);
	return length;
}

static const struct proc_ops unbind_lock_operations = {
	.proc_open = open_unbind_lock,
	.proc_read = seq_read,
	.proc_write = write_unbind_lock,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static int probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct gpu *gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	int failed;

	if (!gpu)
		return -ENOMEM;
	failed = pci_enable_device(pci);
	if (failed)
		goto out;
	pci_set_master(pci);
	gpu->pci = pci;
	mutex_lock(&all);
	while (gpu->minor < MOST && gpus[gpu->minor])
		gpu->minor++;
	if (gpu->minor < MOST)
		gpus[gpu->minor] = gpu;
	mutex_unlock(&all);
	if (gpu->minor == MOST) {
		failed = -ENOSPC;
		goto disable;
	}
	gpu->dir = proc_mkdir(pci_name(pci), gpus_dir);
	if (gpu->dir)
		proc_create_data("unbindLock", 0600, gpu->dir, &unbind_lock_operations, gpu);
	pci_set_drvdata(pci, gpu);
	return 0;
disable:
	pci_disable_device(pci);
out:
	kfree(gpu);
	return failed;
}

static void take_away(struct pci_dev *pci)
{
	struct gpu *gpu = pci_get_drvdata(pci);

	mutex_lock(&all);
	gpu->leaving = true;
	if (gpu->users)
		pci_err(pci, "taken away while it is in use %u times\n", gpu->users);
	while (gpu->users) {
		mutex_unlock(&all);
		msleep(20);
		mutex_lock(&all);
	}
	gpus[gpu->minor] = NULL;
	mutex_unlock(&all);
	proc_remove(gpu->dir);
	pci_clear_master(pci);
	pci_disable_device(pci);
	kfree(gpu);
}

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_VGA << 8, .class_mask = ~0 },
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_3D << 8, .class_mask = ~0 },
	{ }
};

static struct pci_driver driver = {
	.name = "nvidia",
	.id_table = ids,
	.probe = probe,
	.remove = take_away,
};

static int __init start(void)
{
	struct proc_dir_entry *dir = proc_mkdir("driver/nvidia", NULL);
	int failed;

	if (!dir)
		return -ENOMEM;
	gpus_dir = proc_mkdir("gpus", dir);
	failed = register_chrdev(NVIDIA_MAJOR, "nvidia", &node_operations);
	if (!failed)
		failed = min(0, register_chrdev(0, "nvidia-uvm", &uvm_operations));
	if (!failed)
		failed = pci_register_driver(&driver);
	return failed;
}

module_init(start);

MODULE_DESCRIPTION("Stands in for the kernel side of NVIDIA's driver");
MODULE_LICENSE("GPL");
