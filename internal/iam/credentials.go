package iam

import (
	"bytes"
	"fmt"
	"os"

	"github.com/evermesh/evermesh/internal/seal"
)

// Credentials are a key as the text of an AWS shared-credentials file.
func Credentials(account string, k AccessKey) []byte {
	return fmt.Appendf(nil, "# The root key of account %s.\n[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", account, k.ID, string(k.Secret))
}

// WriteCredentials writes a key as an AWS shared-credentials file with mode
// 0600. Every replica writes the same.
func WriteCredentials(file, account string, k AccessKey) error {
	text := Credentials(account, k)
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return seal.WriteFile(file, text)
}
