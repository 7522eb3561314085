// Command kubectl is Kubernetes' own kubectl, from its published module.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	// Clusters of cloud providers: an existing one can be the test cluster.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
)

func main() {
	// The command's own errors are printed once, as kubectl prints them.
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
