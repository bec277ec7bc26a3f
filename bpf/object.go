package bpf

import (
	"crypto/sha256"
	"encoding/hex"
)

// ObjectSHA256 returns the SHA-256 of the committed BPF object, in hexadecimal.
func ObjectSHA256() string {
	sum := sha256.Sum256(_ExecBytes)
	return hex.EncodeToString(sum[:])
}
