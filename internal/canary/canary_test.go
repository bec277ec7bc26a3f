package canary

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestRuns executes the program for real: it prints its line, lives its second, and exits with 0.
func TestRuns(t *testing.T) {
	program, err := Here(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	out, err := exec.Command(path).CombinedOutput()
	if err != nil || string(out) != message {
		t.Fatalf("canary printed %q, error %v", out, err)
	}
	if lived := time.Since(start); lived < time.Second {
		t.Errorf("it lived %v, want at least a second", lived)
	}
}

func TestEveryArchitectureIsAnExecutable(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		program, err := Program(arch, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(program)) {
			t.Errorf("%s: header %+v, %d segments", arch, f.FileHeader, len(f.Progs))
		}
		if Known()[SHA256(program)] != Label {
			t.Errorf("%s: the list does not know it", arch)
		}
	}
}
