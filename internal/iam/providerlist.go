package iam

// Providers are the OIDC providers that an account has registered, in no order.
func (k *Keys) Providers(account string) []Provider {
	d := k.directory
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := d.tenants[account]
	if t == nil {
		return nil
	}
	out := make([]Provider, 0, len(t.providers))
	for _, p := range t.providers {
		out = append(out, d.provider(account, p))
	}
	return out
}
