/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kernel's side of the verdict as a program of this machine: to each line of
 * standard input it prints an answer.
 *
 *	judge OVERLAY ROOT UPPER LOWER USER ROOT_OVERLAY   -> the flags, or 0 for the quiet answer
 *	run FILE NOW CTIME                                 -> told or counted, and the repeats before it
 */
#define preserve_access_index
#define __builtin_preserve_access_index(x) (x)
#define __builtin_preserve_field_info(x, kind) 0
#include "../kernel.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct lower { char other[8]; __u32 count; };
struct ovl_inode { char other[24]; void *upper; struct lower *lower; struct inode vfs; };

/* The loader's constants; offsets are counted from the VFS inode, which is not the first field. */
#define FROM_VFS(field) ((int)offsetof(struct ovl_inode, field) - (int)offsetof(struct ovl_inode, vfs))
const volatile __s32 ovl_upper = FROM_VFS(upper);
const volatile __s32 ovl_lower = FROM_VFS(lower);
#ifdef POINTER_TELLS
const volatile __s32 ovl_numlower = -1;
#else
const volatile __s32 ovl_numlower = offsetof(struct lower, count);
#endif
const volatile __u64 window_ns = 60000000000ULL;

/* The helpers, and the map of runs. */
static void *lookup(void *map, const void *key);
static long update(void *map, const void *key, const void *value);
static __u64 counted[8];

#define bpf_probe_read_kernel(dst, n, src) (memcpy(dst, src, n), 0L)
#define bpf_map_lookup_elem(map, key) lookup(map, key)
#define bpf_map_update_elem(map, key, value, flags) update(map, key, value)
#include "../exec.bpf.c"

static struct file_key keys[16];
static struct file_runs values[16];
static int n;

static void *lookup(void *map, const void *key)
{
	if (map == (void *)&counters)
		return &counted[*(const __u32 *)key];
	for (int i = 0; i < n; i++)
		if (!memcmp(&keys[i], key, sizeof(keys[i])))
			return &values[i];
	return 0;
}

static long update(void *map, const void *key, const void *value)
{
	if (n == 16)
		return -1;	/* full: what runs then is told, though not remembered */
	keys[n] = *(const struct file_key *)key;
	values[n++] = *(const struct file_runs *)value;
	return 0;
}

int main(void)
{
	char line[256];
	int overlay, on_root, upper, lower, user, root_overlay;
	unsigned long long ino, now, ctime;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "judge %d %d %d %d %d %d", &overlay, &on_root, &upper, &lower, &user, &root_overlay) == 6) {
			struct user_namespace of_host = { 0 }, of_user = { 1 };
			struct super_block root = { root_overlay ? OVERLAYFS_MAGIC : 0xef53, 1, &of_host };
			struct super_block other = { overlay ? OVERLAYFS_MAGIC : 0x01021994, 2, &of_host };
			struct lower with = { .count = 1 }, without = { .count = 0 };
			struct ovl_inode o = { .upper = upper ? &o : 0, .lower = lower ? &with : &without };

#ifdef POINTER_TELLS
			if (!lower)
				o.lower = 0;
#endif
			o.vfs.i_sb = on_root ? &root : &other;
			o.vfs.i_sb->s_user_ns = user ? &of_user : &of_host;
			printf("%u\n", judge(&o.vfs, &root));
		} else if (sscanf(line, "run %llu %llu %llu", &ino, &now, &ctime) == 3) {
			struct file_key key = { .cgroup = 1, .ino = ino, .ctime_ns = ctime };
			__u64 repeats;
			int told = first_in_window(&key, now, &repeats);

			printf("%s %llu\n", told ? "told" : "counted", (unsigned long long)repeats);
		} else {
			fprintf(stderr, "cannot read %s", line);
			return 1;
		}
	}
	return 0;
}
