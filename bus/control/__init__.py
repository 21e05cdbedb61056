"""What an operator asks and orders; every act bears a person and a reason."""
