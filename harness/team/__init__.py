"""Where a team stands: who keeps which promises of which kata, and what each could learn next."""
