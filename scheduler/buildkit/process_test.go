package buildkit_test

const clientEnv = "BUILDKIT_TEST_CLIENT"

func runClient() {}
