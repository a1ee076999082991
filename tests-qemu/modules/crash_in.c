// SPDX-License-Identifier: GPL-2.0-only
/*
 * insmod crash_in.ko how=softirq|tasklet|hardirq|task: an oops in that context; the load itself succeeds or never ends.
 * how=fpu: a panic where the kernel uses the FPU.
 * how=timers: no oops, but from now on the first CPU has its own timers' lock most of the time, for an NMI to come upon.
 */
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/timer.h>
#include <asm/fpu/api.h>

static char *how = "softirq";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "softirq (a timer), tasklet, hardirq, task, fpu or timers");

static int *volatile nowhere;

static noinline void crash_here(void)
{
	pr_info("crash_in: softirq %d, hardirq %d, task %d\n", !!in_serving_softirq(), !!in_hardirq(), !!in_task());
	*nowhere = 1;
}

static void in_timer(struct timer_list *timer)
{
	crash_here();
}
static DEFINE_TIMER(timer, in_timer);

static void in_tasklet(struct tasklet_struct *tasklet)
{
	crash_here();
}
static DECLARE_TASKLET(tasklet, in_tasklet);

static void in_irq_work(struct irq_work *work)
{
	crash_here();
}
static struct irq_work work = IRQ_WORK_INIT_HARD(in_irq_work);

/* Set and deleted, each of which takes the lock, with interrupts off. */
static int set_timers(void *unused)
{
	while (!kthread_should_stop()) {
		int i;

		for (i = 0; i < 1000; i++) {
			mod_timer(&timer, jiffies + 1000 * HZ);
			timer_delete(&timer);
		}
		cond_resched();
	}
	return 0;
}

static noinline void crash_in_fpu(void)
{
	kernel_fpu_begin();
	panic("crash_in: the kernel uses the FPU");
}

static int __init start_timers(void)
{
	struct task_struct *task = kthread_create(set_timers, NULL, "crash_in");

	if (IS_ERR(task))
		return PTR_ERR(task);
	kthread_bind(task, 0);
	wake_up_process(task);
	return 0;
}

static int __init crash_in_init(void)
{
	if (!strcmp(how, "softirq"))
		mod_timer(&timer, jiffies + 1);
	else if (!strcmp(how, "tasklet"))
		tasklet_schedule(&tasklet);
	else if (!strcmp(how, "hardirq"))
		irq_work_queue(&work);
	else if (!strcmp(how, "task"))
		crash_here();
	else if (!strcmp(how, "fpu"))
		crash_in_fpu();
	else if (!strcmp(how, "timers"))
		return start_timers();
	else
		return -EINVAL;
	return 0;
}
module_init(crash_in_init);

MODULE_DESCRIPTION("An oops where a test wants it");
MODULE_LICENSE("GPL");
