"""Problems and demonstrations of the four small worlds (`sod.environments.worlds`), for `sod lab make`."""
