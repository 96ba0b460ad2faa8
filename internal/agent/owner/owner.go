// Package owner says whose a file is: what other users may have put somewhere is neither read nor written.
package owner

import (
	"io/fs"
	"os"
	"syscall"
)

// Mine says whether it is this user's.
func Mine(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// Trusted says whether it is this user's or root's.
func Trusted(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return Mine(info) || ok && stat.Uid == 0
}

// Open says whether others than its owner may write to it.
func Open(info fs.FileInfo) bool { return info.Mode()&0o022 != 0 }
