"""What studies share: their form, rollouts of policies, arms, and the maths of gradients; no file here is a study."""
