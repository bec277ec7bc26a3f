// Package canary owns the harmless program that tests the whole way from the
// kernel to the page: a static executable of a few hundred bytes that prints one
// line, sleeps, and exits. Its bytes depend only on the architecture, the time
// it lives and a marker, so its SHA-256 is known before it runs.
package canary

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"runtime"
	"time"
)

// Label is what the built-in indicator list calls the program.
const Label = "contraband.canary (harmless)"

// message is what it prints, and what a person who finds the file reads in it.
const message = "CONTRABAND-CANARY: a harmless test program that was not in this container's image. It may be deleted.\n"

// seconds are the lives that the built-in indicator list knows.
var seconds = []int{1, 60, 600}

// code is position independent: write(1, msg, len); count times nanosleep(1 s);
// exit(0). The data behind it is: timespec (two 64-bit words, 1 and 0), count
// and len (32-bit words), msg.
var code = map[string]struct {
	machine uint16 // e_machine in the ELF header
	text    []byte
}{
	"amd64": {62, []byte{
		0xb8, 0x01, 0x00, 0x00, 0x00, //             mov  eax, 1            write
		0xbf, 0x01, 0x00, 0x00, 0x00, //             mov  edi, 1            standard output
		0x48, 0x8d, 0x35, 0x47, 0x00, 0x00, 0x00, // lea  rsi, [rip+msg]
		0x8b, 0x15, 0x3d, 0x00, 0x00, 0x00, //       mov  edx, [rip+len]
		0x0f, 0x05, //                               syscall
		0x8b, 0x1d, 0x31, 0x00, 0x00, 0x00, //       mov  ebx, [rip+count]
		0xb8, 0x23, 0x00, 0x00, 0x00, //          1: mov  eax, 35           nanosleep
		0x48, 0x8d, 0x3d, 0x15, 0x00, 0x00, 0x00, // lea  rdi, [rip+ts]
		0x31, 0xf6, //                               xor  esi, esi
		0x0f, 0x05, //                               syscall
		0xff, 0xcb, //                               dec  ebx
		0x75, 0xec, //                               jnz  1b
		0xb8, 0x3c, 0x00, 0x00, 0x00, //             mov  eax, 60           exit
		0x31, 0xff, //                               xor  edi, edi
		0x0f, 0x05, //                               syscall
		0x0f, 0x1f, 0x40, 0x00, //                   align 8
	}},
	"arm64": {183, words(
		0xd2800808, // mov  x8, #64     write
		0xd2800020, // mov  x0, #1      standard output
		0x100002c1, // adr  x1, msg
		0x10000282, // adr  x2, len
		0xb9400042, // ldr  w2, [x2]
		0xd4000001, // svc  #0
		0x10000213, // adr  x19, count
		0xb9400273, // ldr  w19, [x19]
		0xd2800ca8, // 1: mov x8, #101  nanosleep
		0x10000120, // adr  x0, ts
		0xd2800001, // mov  x1, #0
		0xd4000001, // svc  #0
		0x71000673, // subs w19, w19, #1
		0x54ffff61, // b.ne 1b
		0xd2800ba8, // mov  x8, #93     exit
		0xd2800000, // mov  x0, #0
		0xd4000001, // svc  #0
		0xd503201f, // nop              align 8
	)},
}

func words(w ...uint32) []byte {
	var out []byte
	for _, v := range w {
		out = binary.LittleEndian.AppendUint32(out, v)
	}
	return out
}

// Program is the executable that lives for a number of whole seconds, at least one.
func Program(arch string, life time.Duration) ([]byte, error) {
	c, ok := code[arch]
	if !ok {
		return nil, fmt.Errorf("canary: no program for architecture %q", arch)
	}
	data := binary.LittleEndian.AppendUint64(nil, 1) // ts.tv_sec
	data = binary.LittleEndian.AppendUint64(data, 0) // ts.tv_nsec
	data = binary.LittleEndian.AppendUint32(data, uint32(max(1, life/time.Second)))
	data = binary.LittleEndian.AppendUint32(data, uint32(len(message)))
	body := append(append(bytes.Clone(c.text), data...), message...)

	const base, header, segment = 0x400000, 64, 56
	size := uint64(header + segment + len(body))
	elf := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 64 bit, little endian, System V
	for _, v := range []any{
		uint16(2), c.machine, uint32(1), uint64(base + header + segment), uint64(header), uint64(0), // type EXEC ... e_phoff, e_shoff
		uint32(0), uint16(header), uint16(segment), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000), // PT_LOAD, read and execute
	} {
		var err error
		if elf, err = binary.Append(elf, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	return append(elf, body...), nil
}

// Here is Program for this machine.
func Here(life time.Duration) ([]byte, error) { return Program(runtime.GOARCH, life) }

// selfTestLife is a life that no indicator list knows: the self-test's program is not the
// canary, which is to be found.
const selfTestLife = 30 * time.Second

// SelfTest is the program that a sensor's self-test runs, for this machine.
func SelfTest() ([]byte, error) { return Here(selfTestLife) }

// IsSelfTest reports whether a SHA-256 is of the program of a self-test, whoever runs it and
// on whatever architecture. Those bytes print a line, sleep and exit: not
// reporting that they were executed hides nothing. What such a process does later may be
// another program's doing, and is not the self-test.
func IsSelfTest(sum string) bool { return selfTests[sum] }

var selfTests = func() map[string]bool {
	out := map[string]bool{}
	for arch := range code {
		if p, err := Program(arch, selfTestLife); err == nil {
			out[SHA256(p)] = true
		}
	}
	return out
}()

// SHA256 of a program, in hex.
func SHA256(program []byte) string {
	sum := sha256.Sum256(program)
	return hex.EncodeToString(sum[:])
}

// Known are the SHA-256 of the programs that the built-in indicator list holds.
func Known() map[string]string {
	out := map[string]string{}
	for arch := range code {
		for _, s := range seconds {
			if p, err := Program(arch, time.Duration(s)*time.Second); err == nil {
				out[SHA256(p)] = Label
			}
		}
	}
	return out
}
