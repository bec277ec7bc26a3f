/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* BPF is no architecture of the C library: the generic types serve every host. */
#include <asm-generic/types.h>
