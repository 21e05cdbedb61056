"""SAP S/4HANA: production orders as its OData services write them, confirmations and goods movements as they take them.

Field names and lengths: SAP's published descriptions of API_PRODUCTION_ORDER_2_SRV,
API_PROD_ORDER_CONFIRMATION_2_SRV and API_MATERIAL_DOCUMENT_SRV.
"""
