package issue

import (
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The bindings are named for whom they are, so that a second one for the same is the same object.
const bindingPrefix = "nodejoin:"

// RoleBinding gives a user, in a namespace, what a ClusterRole allows.
func RoleBinding(user, clusterRole, namespace string) *rbac.RoleBinding {
	return &rbac.RoleBinding{
		TypeMeta:   meta.TypeMeta{APIVersion: rbac.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: meta.ObjectMeta{Name: bindingPrefix + user + ":" + clusterRole, Namespace: namespace},
		Subjects:   []rbac.Subject{subject(user)},
		RoleRef:    roleRef(clusterRole),
	}
}

// ClusterRoleBinding gives a user everywhere what a ClusterRole allows.
func ClusterRoleBinding(user, clusterRole string) *rbac.ClusterRoleBinding {
	return &rbac.ClusterRoleBinding{
		TypeMeta:   meta.TypeMeta{APIVersion: rbac.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: meta.ObjectMeta{Name: bindingPrefix + user + ":" + clusterRole},
		Subjects:   []rbac.Subject{subject(user)},
		RoleRef:    roleRef(clusterRole),
	}
}

func subject(user string) rbac.Subject {
	return rbac.Subject{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: user}
}

func roleRef(clusterRole string) rbac.RoleRef {
	return rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: clusterRole}
}
