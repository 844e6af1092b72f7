"""Any Gymnasium environment as a task family: attributes, keywords or model fields that vary."""
