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

#define ROOT_CGROUP 1		/* id of a hierarchy's root */
#define SHA256_BYTES 32
#define HASH_ALGO_SHA256 4	/* uapi/linux/hash_info.h */
#define PROT_EXEC 4
#define MAP_SHARED 1
#define FRESH_NS 20000000ULL	/* two of the longest ticks, by which the change time is kept */

/* Set by the loader before the programs are loaded. */
const volatile __u32 host_mnt_ns;	/* inode number of the host's mount namespace */
const volatile __s32 ovl_upper;		/* struct inode -> ovl_inode.__upperdentry, bytes */
const volatile __s32 ovl_lower;		/* struct inode -> pointer that is (or leads to) the lower part, bytes */
const volatile __s32 ovl_numlower;	/* in what ovl_lower points to: __numlower, bytes; < 0: the pointer itself tells */
const volatile __u64 window_ns;		/* a file that runs again within it is counted, not sent */
const volatile __u32 with_lsm;		/* the LSM programs are loaded too: they see scripts and libraries */
const volatile __u32 with_ima;		/* and may hash: bpf_ima_file_hash is there */
const volatile __u64 ima_max;		/* larger files are not hashed before they run, bytes */

/* CLOCK_REALTIME less CLOCK_BOOTTIME; user space keeps it true. In a map of its own. */
volatile __u64 wall_offset SEC(".data.clock") = 0;

enum counter { QUIET, SENT, REPEATED, DROPPED, COUNTERS };

enum event_flags {
	ON_OVERLAY = 1,		/* the file's superblock is an overlay */
	ON_ROOT = 2,		/* the file's superblock is that of the process's root directory */
	HAS_UPPER = 4,
	HAS_LOWER = 8,
	ROOT_OVERLAY = 16,	/* the process's root directory is on an overlay */
	RUNNING = 32,		/* found by the iterator: it ran before the sensor */
	REPORT = 64,		/* always set */
	USER_MOUNT = 128,	/* the overlay was mounted inside a user namespace */
	SCRIPT = 256,		/* the file is a script; without BY_NAME its own inode is told */
	MAPPED = 512,		/* the file was mapped to be executed, by a program that is another file */
	HASHED = 1024,		/* sha256 is that of the file as it ran */
	BY_NAME = 2048,		/* of a SCRIPT only filename is known; the inode is the interpreter's */
	LOCAL = 4096,		/* the file system is of this machine's memory or disks: it answers */
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
	__u8 sha256[SHA256_BYTES];
	char comm[16];
	char filename[NAME_MAX_BYTES];	/* what the caller of execve said; of MAPPED the name of the program */
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

/* Cgroups of the host's own services, which user space has found to be no containers. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u8);
} ignored SEC(".maps");

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

/*
 * What of a file is worth telling: 0 is the quiet answer. Here and in what comes
 * before it pointers are followed directly, which the verifier allows for typed
 * ones: a tenth of the cost of a helper call each. inode and root must be typed.
 */
static __always_inline __u32 judge(struct inode *inode, struct super_block *root)
{
	struct super_block *sb = inode->i_sb;
	int overlay = sb->s_magic == OVERLAYFS_MAGIC;
	void *upper = overlay ? pointer_at(inode, ovl_upper) : 0;
	/* Anybody can mount an overlay in a user namespace of his own, with anything as its lower layer. */
	int user_mount = overlay && sb->s_user_ns->level > 0;
	__u32 flags = REPORT;

	if (overlay && sb == root && !upper && !user_mount)
		return 0;
	if (root->s_magic == OVERLAYFS_MAGIC)
		flags |= ROOT_OVERLAY;
	if (sb == root)
		flags |= ON_ROOT;
	if (overlay)
		flags |= ON_OVERLAY;
	if (upper)
		flags |= HAS_UPPER;
	if (overlay && has_lower(inode))
		flags |= HAS_LOWER;
	if (user_mount)
		flags |= USER_MOUNT;
	return flags;
}

static __always_inline int first_in_window(struct file_key *key, __u64 now, __u64 *repeats)
{
	struct file_runs fresh = { .sent_ns = now }, *known;
	__u64 age = now + wall_offset - key->ctime_ns;

	*repeats = 0;
	/* Within a tick other bytes have the same change time: what has just changed is not remembered. */
	if (age + FRESH_NS < 2 * FRESH_NS)
		return 1;
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

/*
 * What is known between the check of a file and its exec belongs to the task: a map of
 * all tasks could be full of others'.
 */
struct checked { __u64 ino; __u64 ctime_ns; __u32 dev; __u32 pad; __u8 sha256[SHA256_BYTES]; };

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct checked);
} hashes SEC(".maps");

/* Scripts, until the exec of their interpreter. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct event);
} scripts SEC(".maps");

/* In a mount namespace other than the host's? */
static __always_inline __u32 foreign_mount_ns(struct task_struct *p)
{
	__u32 mnt_ns = p->nsproxy->mnt_ns->ns.inum; /* 0 where one of them is none: a task that ends */

	return mnt_ns != host_mnt_ns ? mnt_ns : 0;
}

/*
 * The root mount of a namespace is the kernel's rootfs, under the container's:
 * the process's own root directory is what can be told apart.
 */
static __always_inline struct super_block *root_of(struct task_struct *p)
{
	return p->fs->root.mnt->mnt_sb;
}

/*
 * An inode number is used again as soon as its file is unlinked, within the same
 * tick of the change time: the generation, which is the upper file's, tells the
 * two apart.
 */
static __always_inline __u32 generation_of(struct inode *inode, __u32 flags)
{
	struct dentry *d;
	struct inode *upper;

	if (!(flags & HAS_UPPER))
		return BPF_CORE_READ(inode, i_generation);
	d = pointer_at(inode, ovl_upper);
	upper = BPF_CORE_READ(d, d_inode);
	return BPF_CORE_READ(upper, i_generation);
}

static __always_inline __u64 container_of_task(struct task_struct *p)
{
	__u64 cgroup = BPF_CORE_READ(p, cgroups, dfl_cgrp, kn, id);

	if (cgroup <= ROOT_CGROUP) /* cgroup v1 alone: all are in the root of the other hierarchy */
		cgroup |= (__u64)BPF_CORE_READ(p, nsproxy, mnt_ns, ns.inum) << 32;
	return cgroup;
}

/* A service of the host's in a mount namespace of its own; a root on an overlay is a container's. */
static __always_inline int is_ignored(struct task_struct *p, __u32 flags)
{
	__u64 cgroup;

	if (flags & ROOT_OVERLAY)
		return 0;
	cgroup = container_of_task(p);
	return bpf_map_lookup_elem(&ignored, &cgroup) != 0;
}

static __always_inline void key_of(struct file_key *key, struct task_struct *p, struct inode *inode, __u32 flags)
{
	key->cgroup = container_of_task(p);
	key->ino = BPF_CORE_READ(inode, i_ino);
	key->ctime_ns = change_time(inode);
	key->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	key->generation = generation_of(inode, flags);
}

static __always_inline void write_process(struct event *e, struct task_struct *p)
{
	unsigned long start = BPF_CORE_READ(p, mm, arg_start);
	__u64 len = BPF_CORE_READ(p, mm, arg_end) - start;

	BPF_CORE_READ_STR_INTO(&e->comm, p, comm);
	if (len > ARGS_BYTES - 1)
		len = ARGS_BYTES - 1;
	len &= ARGS_BYTES - 1;
	e->args_len = bpf_probe_read_user(e->args, len, (void *)start) == 0 ? len : 0;
}

/* Others may be of the network, or served by somebody in a container, and never answer. */
static __always_inline __u32 local(struct inode *inode)
{
	switch (BPF_CORE_READ(inode, i_sb, s_magic)) {
	case OVERLAYFS_MAGIC:
	case 0x01021994: /* tmpfs, memfd */
	case 0x858458f6: /* ramfs */
	case 0x958458f6: /* hugetlbfs */
	case 0xef53: /* ext4 */
	case 0x58465342: /* xfs */
	case 0x9123683e: /* btrfs */
	case 0xf2f52010: /* f2fs */
	case 0x73717368: /* squashfs */
	case 0xe0f5e1e2: /* erofs */
		return LOCAL;
	}
	return 0;
}

static __always_inline void write_file(struct event *e, struct task_struct *p, struct file *file, struct file_key *key, __u32 flags)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode), *upper;
	struct dentry *d;

	e->start_ns = BPF_CORE_READ(p, group_leader, start_boottime);
	e->cgroup = BPF_CORE_READ(p, cgroups, dfl_cgrp, kn, id);
	e->ino = key->ino;
	e->ctime_ns = key->ctime_ns;
	e->dev = key->dev;
	e->generation = key->generation;
	e->size = BPF_CORE_READ(inode, i_size);
	e->nlink = BPF_CORE_READ(inode, i_nlink);
	e->upper_ino = 0;
	if (flags & HAS_UPPER) {
		d = pointer_at(inode, ovl_upper);
		upper = BPF_CORE_READ(d, d_inode);
		e->upper_ino = BPF_CORE_READ(upper, i_ino);
	}
	e->root_dev = BPF_CORE_READ(root_of(p), s_dev);
	e->mnt_ns = BPF_CORE_READ(p, nsproxy, mnt_ns, ns.inum);
	e->pid = BPF_CORE_READ(p, tgid);
	e->ppid = BPF_CORE_READ(p, real_parent, tgid);
	e->uid = BPF_CORE_READ(p, cred, uid.val);
	e->gid = BPF_CORE_READ(p, cred, gid.val);
	e->flags = flags | local(inode);
	e->args_len = 0;
	e->comm[0] = 0;
	e->filename[0] = 0;
	e->path_len = write_path(e, BPF_CORE_READ(file, f_path.dentry));
}

static __always_inline int send(struct event *e, struct file_key *key)
{
	if (bpf_ringbuf_output(&events, e, sizeof(*e), 0)) {
		if (key)
			bpf_map_delete_elem(&runs, key); /* the next run of it is a first one again */
		count(DROPPED);
		return 0;
	}
	count(SENT);
	return 0;
}

/* De-duplicates, and only then describes. */
static __always_inline int tell(struct task_struct *p, struct file *file, const char *filename, __u32 flags, struct checked *checked)
{
	struct file_key key = {};
	__u64 repeats = 0, now = bpf_ktime_get_boot_ns();
	struct event *e;

	if (is_ignored(p, flags)) {
		count(QUIET);
		return 0;
	}
	key_of(&key, p, file->f_inode, flags);
	/* A script known by name alone could be another one each time: user space tells them apart. */
	if (!(flags & BY_NAME) && !first_in_window(&key, now, &repeats))
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		bpf_map_delete_elem(&runs, &key); /* the next run of it is a first one again */
		count(DROPPED);
		return 0;
	}
	write_file(e, p, file, &key, flags);
	e->boot_ns = flags & RUNNING ? e->start_ns : now;
	e->repeats = repeats;
	if (checked && checked->ino == key.ino && checked->dev == key.dev && checked->ctime_ns == key.ctime_ns) {
		__builtin_memcpy(e->sha256, checked->sha256, SHA256_BYTES);
		e->flags |= HASHED;
	}
	if (flags & RUNNING)
		BPF_CORE_READ_STR_INTO(&e->comm, p, comm);
	else
		write_process(e, p);
	if (filename)
		bpf_probe_read_kernel_str(e->filename, sizeof(e->filename), filename);
	bpf_ringbuf_submit(e, 0);
	count(SENT);
	return 0;
}

/* Tells of a file, unless it is of the image. */
static __always_inline int consider(struct task_struct *p, struct file *file, const char *filename, __u32 kind, struct checked *checked)
{
	__u32 flags = judge(file->f_inode, root_of(p));

	if (!flags && !(kind & BY_NAME)) {
		count(QUIET);
		return 0;
	}
	return tell(p, file, filename, flags | kind, checked);
}

/* The script that was checked has become a process: only now is it told. */
static __always_inline void tell_script(struct task_struct *p, struct event *script)
{
	struct file_key key = { .cgroup = container_of_task(p), .ino = script->ino, .ctime_ns = script->ctime_ns, .dev = script->dev, .generation = script->generation };
	__u64 now = bpf_ktime_get_boot_ns();

	if (!first_in_window(&key, now, &script->repeats))
		return;
	script->boot_ns = now;
	write_process(script, p);
	send(script, &key);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *p, int old_pid, struct linux_binprm *bprm)
{
	__u32 flags;
	const char *filename;
	struct event *script;
	struct file *file;

	if (!foreign_mount_ns(p))
		return 0;
	file = bprm->file;
	filename = bprm->filename;
	if (bprm->interp != filename) {
		if (!with_lsm) {
			consider(p, file, filename, SCRIPT | BY_NAME, 0);
		} else if ((script = bpf_task_storage_get(&scripts, p, 0, 0))) {
			tell_script(p, script);
			bpf_task_storage_delete(&scripts, p);
		}
	}
	flags = judge(file->f_inode, root_of(p));
	if (!flags) {
		count(QUIET);
		return 0;
	}
	return tell(p, file, filename, flags, with_ima ? bpf_task_storage_get(&hashes, p, 0, 0) : 0);
}

/* Once at start: what already runs. */
SEC("iter/task")
int on_running(struct bpf_iter__task *ctx)
{
	struct task_struct *p = ctx->task;
	struct file *file;

	if (!p || BPF_CORE_READ(p, tgid) != BPF_CORE_READ(p, pid))
		return 0;
	if (!p->mm)
		return 0;
	file = p->mm->exe_file;
	if (!file || !foreign_mount_ns(p))
		return 0;
	return consider(p, file, 0, RUNNING, 0);
}

/* Hashes a file that is about to be told, and no other: it takes time. */
static __always_inline int hash(struct file *file, struct file_key *key, __u8 *sha256)
{
	struct file_runs *known = bpf_map_lookup_elem(&runs, key);

	if (!with_ima || BPF_CORE_READ(file, f_inode, i_size) > ima_max)
		return 0;
	if (known && bpf_ktime_get_boot_ns() - known->sent_ns < window_ns)
		return 0;
	return bpf_ima_file_hash(file, sha256, SHA256_BYTES) == HASH_ALGO_SHA256;
}

/*
 * Before each stage of an exec: the script, then its interpreter. The file cannot
 * be written to between here and the exec, so what is hashed is what runs.
 * A program of the image leaves here without having touched a map: on_exec looks
 * for a script only where the interpreter is another file, and for a hash only of
 * a file that is told.
 */
SEC("lsm.s/bprm_check_security")
int BPF_PROG(on_check, struct linux_binprm *bprm)
{
	struct task_struct *p = (void *)bpf_get_current_task_btf();
	int is_script = bprm->buf[0] == '#' && bprm->buf[1] == '!';
	struct checked fresh = {}, *checked;
	struct file_key key = {};
	struct event *script;
	struct inode *inode;
	__u32 flags;

	if (!foreign_mount_ns(p))
		return 0;
	inode = bprm->file->f_inode;
	flags = judge(inode, root_of(p));
	if (!flags && !is_script)
		return 0;
	if (bprm->interp == bprm->filename)
		bpf_task_storage_delete(&scripts, p); /* the first stage: what an exec that failed left is void */
	if (!flags || is_ignored(p, flags))
		return 0;
	key_of(&key, p, inode, flags);
	fresh.ino = key.ino;
	fresh.dev = key.dev;
	fresh.ctime_ns = key.ctime_ns;
	if (hash(bprm->file, &key, fresh.sha256)) {
		checked = bpf_task_storage_get(&hashes, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (checked)
			*checked = fresh;
		flags |= HASHED;
	} else {
		bpf_task_storage_delete(&hashes, p); /* of an exec that failed */
	}
	if (!is_script)
		return 0;
	script = bpf_task_storage_get(&scripts, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!script)
		return 0;
	write_file(script, p, bprm->file, &key, flags | SCRIPT);
	if (flags & HASHED)
		__builtin_memcpy(script->sha256, fresh.sha256, SHA256_BYTES);
	bpf_probe_read_kernel_str(script->filename, sizeof(script->filename), bprm->filename);
	return 0;
}

/* Whatever is mapped to be executed: libraries, and programs that a loader was given. */
SEC("lsm.s/mmap_file")
int BPF_PROG(on_map, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long how)
{
	struct task_struct *p = (void *)bpf_get_current_task_btf();
	struct checked fresh = {};
	const unsigned char *name;
	struct file_key key = {};
	struct inode *inode;
	__u32 flags;

	if (!file || !((reqprot | prot) & PROT_EXEC) || !foreign_mount_ns(p))
		return 0;
	inode = file->f_inode;
	if (p->mm->exe_file->f_inode == inode)
		return 0; /* the program itself: told at its exec */
	flags = judge(inode, root_of(p));
	if (!flags || is_ignored(p, flags))
		return 0;
	/* Compilers at run time share one piece of memory between a place to write and a place to run; a loader maps privately. */
	if ((how & MAP_SHARED) && !(flags & ON_OVERLAY) && !inode->i_nlink)
		return 0;
	key_of(&key, p, inode, flags);
	fresh.ino = key.ino;
	fresh.dev = key.dev;
	fresh.ctime_ns = key.ctime_ns;
	name = BPF_CORE_READ(p, mm, exe_file, f_path.dentry, d_name.name);
	return tell(p, file, (const char *)name, flags | MAPPED, hash(file, &key, fresh.sha256) ? &fresh : 0);
}
