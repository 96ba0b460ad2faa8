package bootstrap

import "net/netip"

// platform is aws.appmesh.platformInfo, with the keys that App Mesh's agent gave it. The zone stands beside the
// platforms, not in them.
func (s source) platform(f Facts) object {
	p := object{
		"supportedIPFamilies": families(f.IPv4, f.IPv6),
		"systemInfo":          object{"systemPlatform": f.Machine, "systemKernelVersion": f.Kernel},
	}
	if k := s.Platform.Kubernetes; k != nil {
		p["k8sPlatformInfo"] = object{"k8sVersion": k.Version, "podUid": k.PodUID, "appMeshControllerVersion": k.ControllerVersion}
		put(p, "AvailabilityZone", f.Zone)
		put(p, "AvailabilityZoneID", f.ZoneID)
	}
	if s.Platform.ExecutionEnv != "" {
		ecs := object{"ecsLaunchType": s.Platform.ExecutionEnv}
		put(ecs, "ecsContainerInstanceArn", s.Platform.ContainerInstance)
		if t := f.Task; t != nil {
			put(ecs, "ecsClusterArn", t.Cluster)
			put(ecs, "ecsTaskArn", t.ARN)
			put(ecs, "CPU", t.CPU)
			put(ecs, "Memory", t.Memory)
			put(p, "AvailabilityZone", t.Zone)
			put(p, "supportedIPFamilies", t.Families)
		}
		p["ecsPlatformInfo"] = ecs
	}
	if s.Platform.FIPS {
		p["fipsModeEnabled"] = true
	}
	return p
}

// serviceConnect tells what ECS gave a proxy of Service Connect.
func (s source) serviceConnect(metadata object) {
	for key, mapping := range map[string]object{
		"aws.ecs.serviceconnect.ClusterIPMapping":    s.Platform.ContainerAddresses,
		"aws.ecs.serviceconnect.ListenerPortMapping": s.Platform.ListenerPorts,
	} {
		if mapping != nil {
			metadata[key] = mapping
		}
	}
	namespace := object{}
	put(namespace, "NamespaceName", s.Platform.NamespaceName)
	put(namespace, "NamespaceArn", s.Platform.NamespaceARN)
	if len(namespace) > 0 {
		metadata["aws.ecs.serviceconnect.ServiceDiscovery"] = namespace
	}
}

func put(in object, key, value string) {
	if value != "" {
		in[key] = value
	}
}

// families are the address families by which the machine is reached: those of addresses that lead beyond it.
func families(v4, v6 map[string][]string) string {
	four, six := reachable(v4), reachable(v6)
	switch {
	case four && !six:
		return "IPv4_ONLY"
	case six && !four:
		return "IPv6_ONLY"
	}
	return "ALL"
}

func reachable(interfaces map[string][]string) bool {
	for _, list := range interfaces {
		for _, s := range list {
			p, err := netip.ParsePrefix(s)
			if err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
				return true
			}
		}
	}
	return false
}
