package iam

import (
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/policy"
)

// setTrust gives a role its trust policy, and refuses what is none. Users and roles in
// it are those who have the names now: who is made anew under one later is not trusted.
// One of the account who is not there is refused, as by AWS, and so is an account that
// does not exist, which would be trusted as soon as somebody had its number; whether there
// is one in another account is not told.
func (d *desk) setTrust(i *identity, text string) error {
	parsed, err := policy.Parse(text)
	if err == nil {
		err = parsed.ForTrust()
	}
	if err != nil {
		return malformed(err)
	}
	if size(text) > trustSize {
		return exceeded("ACLSizePerRole", trustSize)
	}
	for _, account := range parsed.Accounts() {
		exists, err := d.keys.AccountExists(d.ctx, account)
		if err != nil {
			return err
		}
		if !exists {
			return api.Errorf(iamapi.CodeMalformedPolicyDocument, "Invalid principal in policy: \"AWS\":%q: there is no such account", account)
		}
	}
	i.Trust, i.Trusted = text, map[string]string{}
	for _, arn := range parsed.Named() {
		id, err := d.idOf(arn)
		if err != nil {
			return err
		}
		if account, of, _, _ := named(arn); id == "" && of != "" && account == d.account {
			return api.Errorf(iamapi.CodeMalformedPolicyDocument, "Invalid principal in policy: \"AWS\":%q", arn)
		}
		if id != "" {
			i.Trusted[arn] = id
		}
	}
	return nil
}

// named takes the ARN of a user, a role or a role's session apart; of others it has no
// kind.
func named(arn string) (account string, of kind, name, session string) {
	if n, ok := api.ParseResourceName(arn); ok && n.Service == "sts" {
		if rest, ok := strings.CutPrefix(n.Resource, "assumed-role/"); ok {
			name, session, _ = strings.Cut(rest, "/")
			return n.Account, roleKind, name, session
		}
	}
	account, of2, _, name, ok := ParseARN(arn)
	if of = kind(of2); !ok || of != userKind && of != roleKind {
		of = ""
	}
	return account, of, name, ""
}

// idOf is the unique id of the user, the role or the role's session with that ARN now;
// "" when there is none.
func (d *desk) idOf(arn string) (string, error) {
	account, of, name, session := named(arn)
	if of == "" || !accountForm.MatchString(account) {
		return "", nil
	}
	from, f := d.shelf, &fresh{ctx: d.ctx, store: d.store}
	if account != d.account {
		from = f // a transaction is on one account
	}
	i, err := read[identity](from, recordTail(account, string(of), name))
	switch {
	case f.err != nil || err != nil || i == nil:
		return "", firstOf(f.err, err)
	case session != "" && i.Name == name:
		return i.ID + ":" + session, nil
	case session == "" && d.arn(account, string(of), i.Path, i.Name) == arn:
		return i.ID, nil
	}
	return "", nil
}

// toldTrust is a role's trust policy as it is told: who is in it has the ARN that is
// theirs now, and who is gone is an id.
func (d *desk) toldTrust(i *identity) string {
	names := map[string]string{}
	for arn, id := range i.Trusted {
		account, _, _, session := named(arn)
		now := d.keys.directory.arnOf(account, strings.TrimSuffix(id, ":"+session))
		switch {
		case session == "" && now == arn || session != "" && now != "":
			continue
		case now == "": // or not known here yet
			if current, err := d.idOf(arn); err != nil || current == id {
				continue
			}
			now = id
		}
		names[arn] = now
	}
	if len(names) == 0 {
		return i.Trust
	}
	parsed, err := policy.Parse(i.Trust)
	if err != nil {
		return i.Trust
	}
	return parsed.Renamed(names)
}
