// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a printk() costs its caller. Each write of a count to the parameter `run` makes so many calls, and measures each
 * with the fast clock; the parameter `result` then has the minimum, the quartiles and the sum in ns. They come one after
 * another, or `gap` microseconds apart: then the thread that writes them out is asleep and has to be woken.
 *
 * In the kernel and not by writes to /dev/kmsg: those would measure the system call and the copy as well.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/timekeeping.h>

#define MOST 100000

static u32 *times;
static u64 count, sum;
static unsigned int burst;
static unsigned int gap;
module_param(gap, uint, 0600);

static int compare(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

static int set_run(const char *text, const struct kernel_param *param)
{
	unsigned int calls, i;
	int error = kstrtouint(text, 0, &calls);

	if (error)
		return error;
	if (!calls || calls > MOST)
		return -EINVAL;
	burst++;
	sum = 0;
	for (i = 0; i < calls; i++) {
		u64 start = ktime_get_mono_fast_ns(), took;

		pr_info("printk_bench: burst %u line %u of %u, and some more words to make it usual\n", burst, i, calls);
		took = ktime_get_mono_fast_ns() - start;
		sum += took;
		times[i] = min_t(u64, took, U32_MAX);
		if (gap)
			usleep_range(gap, gap + gap / 2 + 1);
	}
	count = calls;
	sort(times, count, sizeof(*times), compare, NULL);
	return 0;
}

static int get_result(char *text, const struct kernel_param *param)
{
	if (!count)
		return -ENODATA;
	return sprintf(text, "%u %u %u %u %llu\n", times[0], times[count / 4], times[count / 2], times[count * 3 / 4], sum);
}

static const struct kernel_param_ops run_ops = { .set = set_run };
static const struct kernel_param_ops result_ops = { .get = get_result };
module_param_cb(run, &run_ops, NULL, 0200);
module_param_cb(result, &result_ops, NULL, 0400);

static int __init printk_bench_init(void)
{
	times = kvmalloc_array(MOST, sizeof(*times), GFP_KERNEL);
	return times ? 0 : -ENOMEM;
}
module_init(printk_bench_init);

static void __exit printk_bench_exit(void)
{
	kvfree(times);
}
module_exit(printk_bench_exit);

MODULE_DESCRIPTION("What a printk() costs its caller");
MODULE_LICENSE("GPL");
