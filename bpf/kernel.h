/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kernel structures that the programs read, with only the fields they
 * read. Offsets are relocated against the running kernel's BTF (CO-RE), so
 * neither order nor completeness matters; names and types do.
 */
#ifndef CONTRABAND_KERNEL_H
#define CONTRABAND_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define CORE __attribute__((preserve_access_index))

struct user_namespace { int level; } CORE;
struct super_block { unsigned long s_magic; unsigned int s_dev; struct user_namespace *s_user_ns; } CORE;

/* The change time has had three spellings; the flavours (after ___) are tried in turn. */
struct timespec64 { long long tv_sec; long tv_nsec; } CORE;
struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	long long i_size;
	unsigned int i_nlink;
	__u32 i_generation;
} CORE;
struct inode___v6_13 { long long i_ctime_sec; __u32 i_ctime_nsec; } CORE;
struct inode___v6_6 { struct timespec64 __i_ctime; } CORE;
struct inode___v6_1 { struct timespec64 i_ctime; } CORE;

struct qstr { const unsigned char *name; } CORE;
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; } CORE;
struct vfsmount { struct dentry *mnt_root; struct super_block *mnt_sb; } CORE;
struct path { struct vfsmount *mnt; struct dentry *dentry; } CORE;
struct file { struct inode *f_inode; struct path f_path; } CORE;

struct ns_common { unsigned int inum; } CORE;
struct mnt_namespace { struct ns_common ns; } CORE;
struct fs_struct { struct path root; } CORE;
struct nsproxy { struct mnt_namespace *mnt_ns; } CORE;

struct kernfs_node { __u64 id; } CORE;
struct cgroup { struct kernfs_node *kn; } CORE;
struct css_set { struct cgroup *dfl_cgrp; } CORE;

typedef struct { __u32 val; } kuid_t;
typedef struct { __u32 val; } kgid_t;
struct cred { kuid_t uid; kgid_t gid; } CORE;

struct mm_struct { struct file *exe_file; unsigned long arg_start; unsigned long arg_end; } CORE;
struct task_struct {
	struct mm_struct *mm;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	__u64 start_boottime;
	const struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
} CORE;
struct linux_binprm { struct file *file; const char *filename; const char *interp; char buf[256]; } CORE;

struct bpf_iter_meta { struct seq_file *seq; __u64 session_id; __u64 seq_num; } CORE;
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; } CORE;

#endif
