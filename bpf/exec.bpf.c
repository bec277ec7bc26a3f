//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Which programs that run in containers are not of their image?
 *
 * A program of the image is a file in the lower layers of the container's own
 * root overlay: it is answered with a few loads and never wakes user space.
 * Everything else in a foreign mount namespace is a candidate and crosses the
 * ring buffer once per (container, file, change time) and window. User space
 * decides; this file only separates the quiet from the interesting.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define OVERLAYFS_MAGIC 0x794c7630
#define PATH_MAX_BYTES 1024	/* power of two: it masks offsets */
#define CTIME_QUERIED (1U << 31)	/* I_CTIME_QUERIED in linux/fs.h: not a part of the time */
#define NAME_MAX_BYTES 256
#define PATH_MAX_PARTS 32
#define ARGS_BYTES 512		/* power of two: it masks a length */

/* Set by the loader before the programs are loaded. */
const volatile __u32 host_mnt_ns;	/* inode number of the host's mount namespace */
const volatile __s32 ovl_upper;		/* struct inode -> ovl_inode.__upperdentry, bytes */
const volatile __s32 ovl_lower;		/* struct inode -> pointer that is (or leads to) the lower part, bytes */
const volatile __s32 ovl_numlower;	/* in what ovl_lower points to: __numlower, bytes; < 0: the pointer itself tells */
const volatile __u64 window_ns;		/* a file that runs again within it is counted, not sent */

enum counter { SEEN, QUIET, SENT, REPEATED, DROPPED, COUNTERS };

enum event_flags {
	ON_OVERLAY = 1,		/* the file's superblock is an overlay */
	ON_ROOT = 2,		/* the file's superblock is that of the process's root directory */
	HAS_UPPER = 4,
	HAS_LOWER = 8,
	ROOT_OVERLAY = 16,	/* the process's root directory is on an overlay */
	RUNNING = 32,		/* found by the iterator: it ran before the sensor */
	REPORT = 64,		/* always set */
	USER_MOUNT = 128,	/* the overlay was mounted inside a user namespace */
};

struct event {
	__u64 boot_ns;		/* CLOCK_BOOTTIME at the exec; for RUNNING the start of the process */
	__u64 start_ns;		/* CLOCK_BOOTTIME at which the process began */
	__u64 cgroup;		/* id in the unified hierarchy */
	__u64 ino;		/* of the (overlay) inode */
	__u64 upper_ino;	/* of the upper inode, 0 without one */
	__u64 size;
	__u64 ctime_ns;
	__u64 repeats;		/* runs of this file that were not sent since the last event */
	__u32 dev;		/* kernel encoding: major << 20 | minor */
	__u32 root_dev;
	__u32 mnt_ns;
	__u32 pid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 nlink;
	__u32 generation;
	__u32 flags;
	__u32 args_len;
	__u32 path_len;
	char comm[16];
	char filename[NAME_MAX_BYTES];	/* what the caller of execve said */
	char args[ARGS_BYTES];		/* NUL separated, cut at ARGS_BYTES */
	char path[PATH_MAX_BYTES + NAME_MAX_BYTES]; /* names, leaf first, each with its NUL */
};
/* Keep the types in the BTF, from which bpf2go makes the Go ones. */
struct event *unused_event __attribute__((unused));
enum counter *unused_counter __attribute__((unused));
enum event_flags *unused_event_flags __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* The change time is part of the key: without it a reused inode number hides a second file. */
struct file_key { __u64 cgroup; __u64 ino; __u64 ctime_ns; __u32 dev; __u32 generation; };
struct file_runs { __u64 sent_ns; __u64 repeats; };

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, struct file_runs);
} runs SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		(*n)++;
}

static __always_inline __u64 change_time(struct inode *inode)
{
	struct inode___v6_13 *new = (void *)inode;
	struct inode___v6_6 *mid = (void *)inode;
	struct inode___v6_1 *old = (void *)inode;

	if (bpf_core_field_exists(new->i_ctime_sec))
		return BPF_CORE_READ(new, i_ctime_sec) * 1000000000ULL + (BPF_CORE_READ(new, i_ctime_nsec) & ~CTIME_QUERIED);
	if (bpf_core_field_exists(mid->__i_ctime))
		return BPF_CORE_READ(mid, __i_ctime.tv_sec) * 1000000000ULL + BPF_CORE_READ(mid, __i_ctime.tv_nsec);
	return BPF_CORE_READ(old, i_ctime.tv_sec) * 1000000000ULL + BPF_CORE_READ(old, i_ctime.tv_nsec);
}

static __always_inline void *pointer_at(void *base, __s32 offset)
{
	void *p = 0;

	bpf_probe_read_kernel(&p, sizeof(p), (char *)base + offset);
	return p;
}

static __always_inline int has_lower(struct inode *inode)
{
	void *lower = pointer_at(inode, ovl_lower);
	__u32 n = 0;

	if (!lower || ovl_numlower < 0)
		return lower != 0;
	bpf_probe_read_kernel(&n, sizeof(n), (char *)lower + ovl_numlower);
	return n > 0;
}

/* The names from the leaf to the root of the filesystem; user space puts them in order. */
static __always_inline __u32 write_path(struct event *e, struct dentry *dentry)
{
	__u32 at = 0;

	for (int i = 0; i < PATH_MAX_PARTS; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
		long n;

		/* A memfd's only name is that of a dentry which is its own parent. */
		if ((parent == dentry && i > 0) || at >= PATH_MAX_BYTES)
			break;
		n = bpf_probe_read_kernel_str(&e->path[at & (PATH_MAX_BYTES - 1)], NAME_MAX_BYTES, name);
		if (n <= 0)
			break;
		at += n;
		dentry = parent;
	}
	return at;
}

/* What of this process's executable is worth telling: 0 is the quiet answer. */
static __always_inline __u32 judge(struct inode *inode, struct super_block *root)
{
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	__u32 flags = 0;

	if (BPF_CORE_READ(root, s_magic) == OVERLAYFS_MAGIC)
		flags |= ROOT_OVERLAY;
	if (sb == root)
		flags |= ON_ROOT;
	if (BPF_CORE_READ(sb, s_magic) == OVERLAYFS_MAGIC) {
		flags |= ON_OVERLAY;
		if (pointer_at(inode, ovl_upper))
			flags |= HAS_UPPER;
		if (has_lower(inode))
			flags |= HAS_LOWER;
		/* Anybody can mount an overlay in a user namespace of his own, with anything as its lower layer. */
		if (BPF_CORE_READ(sb, s_user_ns, level) > 0)
			flags |= USER_MOUNT;
	}
	if ((flags & ON_OVERLAY) && (flags & ON_ROOT) && !(flags & (HAS_UPPER | USER_MOUNT)))
		return 0;
	return flags | REPORT;
}

static __always_inline int first_in_window(struct file_key *key, __u64 now, __u64 *repeats)
{
	struct file_runs fresh = { .sent_ns = now }, *known;

	*repeats = 0;
	known = bpf_map_lookup_elem(&runs, key);
	if (!known) {
		/* Told even when it cannot be remembered; of two at once both may be told. */
		bpf_map_update_elem(&runs, key, &fresh, BPF_NOEXIST);
		return 1;
	}
	if (now - known->sent_ns < window_ns) {
		__sync_fetch_and_add(&known->repeats, 1);
		count(REPEATED);
		return 0;
	}
	*repeats = known->repeats;
	known->sent_ns = now;
	known->repeats = 0;
	return 1;
}

static __always_inline int consider(struct task_struct *p, struct file *file, const char *filename, __u32 running)
{
	struct mnt_namespace *ns = BPF_CORE_READ(p, nsproxy, mnt_ns);
	__u32 mnt_ns = BPF_CORE_READ(ns, ns.inum);
	struct super_block *root;
	struct file_key key = {};
	struct inode *inode, *upper;
	__u64 repeats, now = bpf_ktime_get_boot_ns();
	struct event *e;
	__u32 flags;

	if (!ns || mnt_ns == host_mnt_ns || !file)
		return 0;
	count(SEEN);
	/*
	 * The root mount of a namespace is the kernel's rootfs, under the
	 * container's: the process's own root directory is what can be told apart.
	 */
	root = BPF_CORE_READ(p, fs, root.mnt, mnt_sb);
	inode = BPF_CORE_READ(file, f_inode);
	flags = judge(inode, root);
	if (!flags) {
		count(QUIET);
		return 0;
	}

	key.cgroup = BPF_CORE_READ(p, cgroups, dfl_cgrp, kn, id);
	key.ino = BPF_CORE_READ(inode, i_ino);
	key.ctime_ns = change_time(inode);
	key.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	key.generation = BPF_CORE_READ(inode, i_generation);
	if (!first_in_window(&key, now, &repeats))
		return 0;

	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		bpf_map_delete_elem(&runs, &key); /* the next run of it is a first one again */
		count(DROPPED);
		return 0;
	}
	e->start_ns = BPF_CORE_READ(p, group_leader, start_boottime);
	e->boot_ns = running ? e->start_ns : now;
	e->cgroup = key.cgroup;
	e->ino = key.ino;
	e->ctime_ns = key.ctime_ns;
	e->repeats = repeats;
	e->dev = key.dev;
	e->generation = key.generation;
	e->size = BPF_CORE_READ(inode, i_size);
	e->nlink = BPF_CORE_READ(inode, i_nlink);
	e->upper_ino = 0;
	if (flags & HAS_UPPER) {
		struct dentry *d = pointer_at(inode, ovl_upper);

		upper = BPF_CORE_READ(d, d_inode);
		e->upper_ino = BPF_CORE_READ(upper, i_ino);
	}
	e->root_dev = BPF_CORE_READ(root, s_dev);
	e->mnt_ns = mnt_ns;
	e->pid = BPF_CORE_READ(p, tgid);
	e->ppid = BPF_CORE_READ(p, real_parent, tgid);
	e->uid = BPF_CORE_READ(p, cred, uid.val);
	e->gid = BPF_CORE_READ(p, cred, gid.val);
	e->flags = flags | running;
	e->args_len = 0;
	e->filename[0] = 0;
	BPF_CORE_READ_STR_INTO(&e->comm, p, comm);
	if (filename) {
		unsigned long start = BPF_CORE_READ(p, mm, arg_start);
		__u64 len = BPF_CORE_READ(p, mm, arg_end) - start;

		bpf_probe_read_kernel_str(e->filename, sizeof(e->filename), filename);
		if (len > ARGS_BYTES - 1)
			len = ARGS_BYTES - 1;
		len &= ARGS_BYTES - 1;
		if (bpf_probe_read_user(e->args, len, (void *)start) == 0)
			e->args_len = len;
	}
	e->path_len = write_path(e, BPF_CORE_READ(file, f_path.dentry));
	bpf_ringbuf_submit(e, 0);
	count(SENT);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *p, int old_pid, struct linux_binprm *bprm)
{
	return consider(p, BPF_CORE_READ(bprm, file), BPF_CORE_READ(bprm, filename), 0);
}

/* Once at start: what already runs. */
SEC("iter/task")
int on_running(struct bpf_iter__task *ctx)
{
	struct task_struct *p = ctx->task;

	if (!p || BPF_CORE_READ(p, tgid) != BPF_CORE_READ(p, pid) || !BPF_CORE_READ(p, mm))
		return 0;
	return consider(p, BPF_CORE_READ(p, mm, exe_file), 0, RUNNING);
}
